# SPDX-License-Identifier: Apache-2.0
# The program, and what its subcommands share: a library, so that tests link it too.
noinst_LTLIBRARIES += libkvmodcli.la
libkvmodcli_la_SOURCES = \
	core/cli/cli.h \
	core/cli/context.c \
	core/cli/options.c \
	core/cli/output.c \
	core/cli/progress.c \
	core/cli/stats.c
libkvmodcli_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libkvmodcli_la_LIBADD = libkvmod.la $(JANSSON_LIBS) $(LIBM)

bin_PROGRAMS += kvmod
kvmod_SOURCES = \
	core/cli/bench.c \
	core/cli/main.c
kvmod_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(KVMOD_DIRS)
kvmod_LDADD = libkvmodcli.la libkvmod.la $(JANSSON_LIBS) $(LIBM)

# Golden vectors, for selftest and for unit tests.
noinst_LTLIBRARIES += libvectors.la
libvectors_la_SOURCES = \
	core/cli/vectors.c \
	core/cli/vectors.h \
	core/cli/vectors_request.c \
	tests/random.c \
	tests/random.h
libvectors_la_LIBADD = $(LIBM)
