# SPDX-License-Identifier: Apache-2.0
# kvmod.conf, its completion and its examples, as they are installed.

EXTRA_DIST += conf/examples/saltmere.txt

templatedir = $(pkgdatadir)/template
dist_template_DATA = \
	conf/template/Makefile.txt \
	conf/template/README.md \
	conf/template/ops.c \
	conf/template/ops.vectors \
	conf/template/scorer.c \
	conf/template/scorer.vectors \
	conf/template/spans.c \
	conf/template/spans.vectors

headsdir = $(pkgdatadir)/heads
dist_heads_DATA = conf/heads/SmolLM2-135M-Instruct.heads

completion_DATA = conf/completion/kvmod
EXTRA_DIST += conf/completion/kvmod

dropindir = $(confdir)/kvmod.conf.d
dist_dropin_DATA = \
	conf/kvmod.conf.d/10-snapkv.conf.example \
	conf/kvmod.conf.d/20-long-chat.conf.example

# A configuration that somebody changed is not written over, nor removed.
EXTRA_DIST += conf/kvmod.conf
install-data-local:
	$(MKDIR_P) "$(DESTDIR)$(confdir)"
	test -e "$(DESTDIR)$(confdir)/kvmod.conf" || \
		$(INSTALL_DATA) $(srcdir)/conf/kvmod.conf "$(DESTDIR)$(confdir)/kvmod.conf"

uninstall-local:
	! cmp -s $(srcdir)/conf/kvmod.conf "$(DESTDIR)$(confdir)/kvmod.conf" || \
		rm -f "$(DESTDIR)$(confdir)/kvmod.conf"
