# SPDX-License-Identifier: Apache-2.0
kvmodincludedir = $(includedir)/kvmod
kvmodinclude_HEADERS = \
	core/include/kvmod/device.h \
	core/include/kvmod/engine.h \
	core/include/kvmod/kvmod.h \
	core/include/kvmod/module.h \
	core/include/kvmod/policy.h \
	core/include/kvmod/types.h

pkgconfig_DATA = core/kvmod.pc

lib_LTLIBRARIES += libkvmod.la
libkvmod_la_SOURCES = \
	core/catalog.c \
	core/check.c \
	core/config.c \
	core/context.c \
	core/decide.c \
	core/device.c \
	core/effective.c \
	core/elffile.c \
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
	core/sections.c \
	core/session.c \
	core/staging.c \
	core/trial.c \
	core/trust.c
libkvmod_la_CPPFLAGS = $(AM_CPPFLAGS) $(INIH_CFLAGS) $(ELF_CFLAGS) $(KVMOD_DIRS)
libkvmod_la_LIBADD = libkernels.la $(INIH_LIBS) $(ELF_LIBS)
libkvmod_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0 -no-undefined \
	-Wl,--version-script=$(srcdir)/core/libkvmod.map
libkvmod_la_DEPENDENCIES = libkernels.la core/libkvmod.map
EXTRA_DIST += core/libkvmod.map

KVMOD_DIRS = -DKVMOD_LIB_DIR='"$(libdir)"' -DKVMOD_MODULE_DIR='"$(moduledir)"' -DKVMOD_DATA_DIR='"$(pkgdatadir)"' \
	-DKVMOD_CONF_DIR='"$(confdir)"'

include $(srcdir)/core/cli/local.mk
