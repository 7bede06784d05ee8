# SPDX-License-Identifier: Apache-2.0
# The parts of `kvmod eval` that need no model: in a library, so that tests can link with them;
# what links with it needs libkvmodcli.la too.
noinst_LTLIBRARIES += libeval.la
libeval_la_SOURCES = \
	core/eval/data.c \
	core/eval/data.h \
	core/eval/metric.c \
	core/eval/metric.h \
	core/eval/number.c \
	core/eval/summary.c \
	core/eval/summary.h \
	core/eval/words.c \
	core/eval/words.h
libeval_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
