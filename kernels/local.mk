# SPDX-License-Identifier: Apache-2.0
# Kernels hold no policy logic. Modules, the core and the tests link them whole.
noinst_LTLIBRARIES += libkernels.la
libkernels_la_SOURCES = \
	kernels/cpu/gather.c \
	kernels/cpu/gather.h
