# SPDX-License-Identifier: Apache-2.0
dist_man_MANS += \
	man/kvmod.1 \
	man/kvmod-module.7 \
	man/kvmod-policies.7 \
	man/kvmod.conf.5 \
	man/libkvmod.3

MAN_TESTS = tests/man.test.sh tests/man_example.test.sh
TESTS += $(MAN_TESTS)
EXTRA_DIST += $(MAN_TESTS)
