# SPDX-License-Identifier: Apache-2.0
# Kernels hold no policy logic. Modules, the core and the tests link them whole.
noinst_LTLIBRARIES += libkernels.la
libkernels_la_SOURCES = \
	kernels/cpu/arena.h \
	kernels/cpu/arrays.c \
	kernels/cpu/arrays.h \
	kernels/cpu/attention.c \
	kernels/cpu/attention.h \
	kernels/cpu/avx2.c \
	kernels/cpu/avx512.c \
	kernels/cpu/blocks.c \
	kernels/cpu/blocks.h \
	kernels/cpu/columns.c \
	kernels/cpu/columns.h \
	kernels/cpu/flash.c \
	kernels/cpu/flash.h \
	kernels/cpu/gather.c \
	kernels/cpu/gather.h \
	kernels/cpu/hadamard.c \
	kernels/cpu/hadamard.h \
	kernels/cpu/limits.h \
	kernels/cpu/logits.c \
	kernels/cpu/logits.h \
	kernels/cpu/ops.h \
	kernels/cpu/scalar.c \
	kernels/cpu/simd.c \
	kernels/cpu/simd.h \
	kernels/cpu/vector.h \
	kernels/cpu/vector_arrays.h \
	kernels/cpu/vector_blocks.h \
	kernels/cpu/vector_columns.h \
	kernels/cpu/vector_flash.h \
	kernels/cpu/vector_quadratic.h \
	kernels/cpu/wo_norms.c \
	kernels/cpu/wo_norms.h
libkernels_la_LIBADD = $(LIBM)

include $(srcdir)/kernels/cuda/local.mk
