# SPDX-License-Identifier: Apache-2.0
# The program, and what its subcommands share: a library, so that tests link it too.
noinst_LTLIBRARIES += libkvmodcli.la
libkvmodcli_la_SOURCES = \
	core/cli/cli.h \
	core/cli/context.c \
	core/cli/find.c \
	core/cli/options.c \
	core/cli/output.c \
	core/cli/progress.c \
	core/cli/sampler.c \
	core/cli/sampler.h \
	core/cli/stats.c \
	core/cli/text.c \
	core/cli/text.h \
	core/names.c \
	core/names.h
libkvmodcli_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libkvmodcli_la_LIBADD = libkvmod.la $(JANSSON_LIBS) $(LIBM)

bin_PROGRAMS += kvmod
kvmod_SOURCES = \
	core/cli/bench.c \
	core/cli/bench_cache.c \
	core/cli/bench_cache.h \
	core/cli/bench_decision.c \
	core/cli/bench_decision.h \
	core/cli/bench_decision_report.c \
	core/cli/bench_decision_run.c \
	core/cli/bench_device.c \
	core/cli/bench_device.h \
	core/cli/bench_gather.c \
	core/cli/bench_options.c \
	core/cli/bench_options.h \
	core/cli/bench_place.c \
	core/cli/bench_pieces.c \
	core/cli/bench_product.c \
	core/cli/bench_read.c \
	core/cli/bench_sweep.c \
	core/cli/bench_engine.c \
	core/cli/bench_engine.h \
	core/cli/bench_engine_device.c \
	core/cli/bench_engine_report.c \
	core/cli/bench_engine_run.c \
	core/cli/bench_engine_share.c \
	core/cli/bench_load.c \
	core/cli/check.c \
	core/cli/compare.c \
	core/cli/generate.c \
	core/cli/info.c \
	core/cli/input.c \
	core/cli/interrupt.c \
	core/cli/list.c \
	core/cli/main.c \
	core/cli/model.c \
	core/cli/new.c \
	core/cli/report.c \
	core/cli/run.c \
	core/cli/run.h \
	core/cli/selftest.c \
	core/cli/selftest.h \
	core/cli/selftest_module.c \
	core/cli/selftest_plans.c \
	core/cli/selftest_policy.c
kvmod_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
kvmod_LDFLAGS = $(AM_LDFLAGS) $(COMMAND_RPATH)
EXTRA_kvmod_DEPENDENCIES = config.status
kvmod_LDADD = libkvmodcli.la libvectors.la libkernels.la libkvmod.la $(JANSSON_LIBS) $(LIBM)

# Golden vectors and made-up caches, for selftest and for unit tests.
noinst_LTLIBRARIES += libvectors.la
libvectors_la_SOURCES = \
	core/cli/madeup.c \
	core/cli/madeup.h \
	core/cli/vectors.c \
	core/cli/vectors.h \
	core/cli/vectors_request.c \
	core/cli/vectors_run.c \
	tests/random.c \
	tests/random.h
libvectors_la_LIBADD = $(LIBM)

# No module: `kvmod bench load` opens it, to measure against.
pkglib_LTLIBRARIES = libkvmod-empty.la
libkvmod_empty_la_SOURCES = core/cli/empty.c
libkvmod_empty_la_LDFLAGS = $(AM_LDFLAGS) -module -avoid-version -shared -no-undefined
