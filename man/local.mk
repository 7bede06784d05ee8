# SPDX-License-Identifier: Apache-2.0
dist_man_MANS += \
	man/kvmod.1 \
	man/kvmod-module.7 \
	man/kvmod-policies.7 \
	man/kvmod.conf.5 \
	man/libkvmod.3

TESTS += tests/man.test.sh
EXTRA_DIST += tests/man.test.sh
