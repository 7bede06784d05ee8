# SPDX-License-Identifier: Apache-2.0
# libkvmod, its headers, and what its version script exports.
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
	core/base/child.h \
	core/base/context.h \
	core/base/log.c \
	core/base/log.h \
	core/base/memory.c \
	core/base/memory.h \
	core/base/names.c \
	core/base/names.h \
	core/base/regular.h \
	core/base/threads.c \
	core/base/threads.h \
	core/config/entries.c \
	core/config/entries.h \
	core/config/fill.c \
	core/config/ini.c \
	core/config/owners.c \
	core/config/paths.c \
	core/config/paths.h \
	core/config/read.c \
	core/config/values.c \
	core/config/values.h \
	core/toolkit/attention.c \
	core/toolkit/heads.c \
	core/toolkit/heaviest.c \
	core/toolkit/norms.c \
	core/toolkit/parts.c \
	core/toolkit/scorer.c \
	core/toolkit/scorer.h \
	core/toolkit/level.c \
	core/toolkit/share.c \
	core/toolkit/table.c \
	core/toolkit/toolkit.h \
	core/modules/call.c \
	core/modules/call.h \
	core/modules/catalog.c \
	core/modules/catalog.h \
	core/modules/configure.c \
	core/modules/context.c \
	core/modules/device.c \
	core/modules/device.h \
	core/modules/dlfile.c \
	core/modules/effective.c \
	core/modules/elffile.c \
	core/modules/elffile.h \
	core/modules/find.c \
	core/modules/host.c \
	core/modules/instance.c \
	core/modules/loader.c \
	core/modules/loader.h \
	core/modules/modinfo.c \
	core/modules/modinfo.h \
	core/modules/needed.c \
	core/modules/registry.c \
	core/modules/registry.h \
	core/modules/sections.c \
	core/modules/trust.c \
	core/run/buffer.c \
	core/run/builtin.c \
	core/run/builtin.h \
	core/run/cpu.c \
	core/run/decide.c \
	core/run/decide.h \
	core/run/describe.c \
	core/run/describe.h \
	core/run/engine.c \
	core/run/engine.h \
	core/run/fullkv.c \
	core/run/gaps.c \
	core/run/handed.c \
	core/run/handed.h \
	core/run/plan.c \
	core/run/policy.c \
	core/run/policy.h \
	core/run/relay.c \
	core/run/relay.h \
	core/run/needs.c \
	core/run/request.c \
	core/run/request.h \
	core/run/rotation.c \
	core/run/left.c \
	core/run/session.c \
	core/run/session.h \
	core/run/settle.c \
	core/run/shares.c \
	core/run/shares.h \
	core/run/staging.c \
	core/run/stores.c \
	core/run/stores.h \
	core/run/workspace.c \
	core/check/check.c \
	core/check/check.h \
	core/check/probe.c \
	core/check/trial.c
nodist_libkvmod_la_SOURCES = core/dirs.h
libkvmod_la_CPPFLAGS = $(AM_CPPFLAGS) $(INIH_CFLAGS) $(ELF_CFLAGS)
libkvmod_la_LIBADD = libkernels.la $(INIH_LIBS) $(ELF_LIBS) $(LIBM)
libkvmod_la_LDFLAGS = $(AM_LDFLAGS) -version-info 1:0:0 -no-undefined \
	-Wl,--version-script=$(srcdir)/core/libkvmod.map
libkvmod_la_DEPENDENCIES = libkernels.la core/libkvmod.map
EXTRA_DIST += core/libkvmod.map

# A header, so that another prefix rebuilds only the sources that use these folders.
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
# For `make libkvmod.la` in a fresh tree. The name is in a variable, because Automake
# would otherwise replace its own rule for this file by this one.
includes_dirs = core/config/libkvmod_la-paths.lo
$(includes_dirs): core/dirs.h

include $(srcdir)/core/testkit/local.mk
include $(srcdir)/core/cli/local.mk
include $(srcdir)/core/eval/local.mk
