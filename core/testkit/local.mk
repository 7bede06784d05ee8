# SPDX-License-Identifier: Apache-2.0
# Golden vectors and made-up caches, for selftest and for unit tests.
noinst_LTLIBRARIES += libvectors.la
libvectors_la_SOURCES = \
	core/run/describe.c \
	core/run/describe.h \
	core/testkit/madeup.c \
	core/testkit/madeup.h \
	core/testkit/random.c \
	core/testkit/random.h \
	core/testkit/vectors.c \
	core/testkit/vectors.h \
	core/testkit/vectors_request.c \
	core/testkit/vectors_run.c
libvectors_la_LIBADD = $(LIBM)
