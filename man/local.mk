# SPDX-License-Identifier: Apache-2.0
dist_man_MANS += \
	man/kvmod.1 \
	man/kvmod-data.7 \
	man/kvmod-module.7 \
	man/kvmod-policies.7 \
	man/kvmod.conf.5 \
	man/libkvmod.3

# `man kvmod_decide` finds libkvmod(3): each exported function has a link to it.
MAN_LINKS = sed -n 's/^[[:space:]]*\(kvmod_[a-z0-9_]*\);$$/\1.3/p' $(abs_srcdir)/core/libkvmod.map

install-man-links:
	cd "$(DESTDIR)$(man3dir)" && \
		for link in `$(MAN_LINKS)`; do ln -sf libkvmod.3 $$link || exit; done

uninstall-man-links:
	test ! -d "$(DESTDIR)$(man3dir)" || { cd "$(DESTDIR)$(man3dir)" && rm -f `$(MAN_LINKS)`; }

MAN_TESTS = tests/man.test.sh tests/man_example.test.sh
TESTS += $(MAN_TESTS)
EXTRA_DIST += $(MAN_TESTS)
