# SPDX-License-Identifier: Apache-2.0
kvmodincludedir = $(includedir)/kvmod
kvmodinclude_HEADERS = \
	core/include/kvmod/device.h \
	core/include/kvmod/engine.h \
	core/include/kvmod/kvmod.h \
	core/include/kvmod/module.h \
	core/include/kvmod/policy.h \
	core/include/kvmod/scorer.h \
	core/include/kvmod/toolkit.h \
	core/include/kvmod/types.h

pkgconfig_DATA = core/kvmod.pc

lib_LTLIBRARIES += libkvmod.la
libkvmod_la_SOURCES = \
	core/catalog.c \
	core/check.c \
	core/child.h \
	core/config.c \
	core/context.c \
	core/decide.c \
	core/device.c \
	core/dlfile.c \
	core/effective.c \
	core/elffile.c \
	core/elffile.h \
	core/engine.c \
	core/entries.c \
	core/fullkv.c \
	core/host.c \
	core/ini.c \
	core/internal.h \
	core/loader.c \
	core/log.c \
	core/modinfo.c \
	core/names.c \
	core/names.h \
	core/needed.c \
	core/param.c \
	core/params.c \
	core/parts.h \
	core/paths.c \
	core/pile.c \
	core/plan.c \
	core/policy.c \
	core/policy.h \
	core/pool.c \
	core/probe.c \
	core/provider.c \
	core/registry.c \
	core/regular.h \
	core/sections.c \
	core/session.c \
	core/staging.c \
	core/toolkit/attention.c \
	core/toolkit/heads.c \
	core/toolkit/heaviest.c \
	core/toolkit/parts.c \
	core/toolkit/scorer.c \
	core/toolkit/scorer.h \
	core/toolkit/share.c \
	core/toolkit/table.c \
	core/toolkit/toolkit.h \
	core/trial.c \
	core/trust.c
nodist_libkvmod_la_SOURCES = core/dirs.h
libkvmod_la_CPPFLAGS = $(AM_CPPFLAGS) $(INIH_CFLAGS) $(ELF_CFLAGS)
libkvmod_la_LIBADD = libkernels.la $(INIH_LIBS) $(ELF_LIBS) $(LIBM)
libkvmod_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0 -no-undefined \
	-Wl,--version-script=$(srcdir)/core/libkvmod.map
libkvmod_la_DEPENDENCIES = libkernels.la core/libkvmod.map
EXTRA_DIST += core/libkvmod.map

# A file, so that another prefix builds again what knows of it, and nothing else.
BUILT_SOURCES += core/dirs.h
CLEANFILES += core/dirs.h
core/dirs.h: always
	@dirs=`echo '#define KVMOD_LIB_DIR "$(libdir)"'; \
		echo '#define KVMOD_MODULE_DIR "$(moduledir)"'; \
		echo '#define KVMOD_DATA_DIR "$(pkgdatadir)"'; \
		echo '#define KVMOD_CONF_DIR "$(confdir)"'`; \
	test "`cat $@ 2>/dev/null`" = "$$dirs" || { $(MKDIR_P) core && echo "$$dirs" >$@; }
always:
.PHONY: always
# For `make libkvmod.la` in a fresh tree. Automake would take the name itself for
# a rule in the place of its own.
includes_dirs = core/libkvmod_la-paths.lo
$(includes_dirs): core/dirs.h

include $(srcdir)/core/cli/local.mk
