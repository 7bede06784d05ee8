# SPDX-License-Identifier: Apache-2.0
# The program. Its subcommands are in a library, so that tests can link with them too.
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
	core/base/names.c \
	core/base/names.h
libkvmodcli_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libkvmodcli_la_LIBADD = libkvmod.la $(JANSSON_LIBS) $(LIBM)

bin_PROGRAMS += kvmod
kvmod_SOURCES = \
	core/bench/bench.c \
	core/bench/cache.c \
	core/bench/cache.h \
	core/bench/decision.c \
	core/bench/decision.h \
	core/bench/decision_report.c \
	core/bench/decision_run.c \
	core/bench/device.c \
	core/bench/device.h \
	core/bench/engine.c \
	core/bench/engine.h \
	core/bench/engine_device.c \
	core/bench/engine_report.c \
	core/bench/engine_run.c \
	core/bench/engine_share.c \
	core/bench/gather.c \
	core/bench/load.c \
	core/bench/options.c \
	core/bench/options.h \
	core/bench/pieces.c \
	core/bench/place.c \
	core/bench/product.c \
	core/bench/read.c \
	core/bench/sweep.c \
	core/cli/check.c \
	core/cli/compare.c \
	core/cli/context_first.c \
	core/cli/converse.c \
	core/cli/generate.c \
	core/cli/heads.c \
	core/cli/heads.h \
	core/cli/heads_table.c \
	core/cli/heads_text.c \
	core/cli/info.c \
	core/cli/input.c \
	core/cli/interrupt.c \
	core/cli/list.c \
	core/cli/main.c \
	core/cli/model.c \
	core/cli/new.c \
	core/cli/positions.c \
	core/cli/report.c \
	core/cli/run.c \
	core/cli/run.h \
	core/cli/turn.c \
	core/eval/cases.c \
	core/eval/cases.h \
	core/eval/eval.c \
	core/eval/measure.c \
	core/eval/measure.h \
	core/eval/results.c \
	core/eval/results.h \
	core/eval/table.c \
	core/eval/table.h \
	core/plot/chart.c \
	core/plot/curve.c \
	core/plot/escape.c \
	core/plot/gnuplot.c \
	core/plot/heads.c \
	core/plot/latency.c \
	core/plot/output.c \
	core/plot/page.c \
	core/plot/page.h \
	core/plot/plot.c \
	core/plot/plot.h \
	core/plot/read.c \
	core/plot/text.c \
	core/plot/width.c \
	core/selftest/module.c \
	core/selftest/plans.c \
	core/selftest/policy.c \
	core/selftest/selftest.c \
	core/selftest/selftest.h
kvmod_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
kvmod_LDFLAGS = $(AM_LDFLAGS) $(COMMAND_RPATH)
EXTRA_kvmod_DEPENDENCIES = config.status
kvmod_LDADD = libeval.la libkvmodcli.la libvectors.la libkernels.la libkvmod.la $(JANSSON_LIBS) $(LIBM)

# Not a module: the file that `kvmod bench load` opens for comparison.
pkglib_LTLIBRARIES = libkvmod-empty.la
libkvmod_empty_la_SOURCES = core/bench/empty.c
libkvmod_empty_la_LDFLAGS = $(AM_LDFLAGS) -module -avoid-version -shared -no-undefined
