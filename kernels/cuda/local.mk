# SPDX-License-Identifier: Apache-2.0
# CUDA kernels, each .cu complete in itself. Host code in them comes from kernel
# launches alone and needs no C++ library.
CUDA_KERNELS = \
	kernels/cuda/attend.cu \
	kernels/cuda/gather.cu \
	kernels/cuda/read.cu \
	kernels/cuda/refreekv.cu
CUDA_INCLUDES = \
	kernels/cuda/attend.cuh \
	kernels/cuda/attend_norm.cuh \
	kernels/cuda/attend_rows.cuh \
	kernels/cuda/attend_select.cuh \
	kernels/cuda/finish.cuh \
	kernels/cuda/fma.cuh \
	kernels/cuda/keys.cuh \
	kernels/cuda/last.cuh \
	kernels/cuda/launch.cuh \
	kernels/cuda/mma.cuh \
	kernels/cuda/paths.cuh \
	kernels/cuda/q8.cuh \
	kernels/cuda/row_steps.cuh \
	kernels/cuda/rows.cuh
CUDA_TABLES = \
	kernels/cuda/attend.h \
	kernels/cuda/attend_table.c \
	kernels/cuda/attend_table.h \
	kernels/cuda/gather.h \
	kernels/cuda/gather_table.c \
	kernels/cuda/gather_table.h \
	kernels/cuda/read.h \
	kernels/cuda/refreekv.h \
	kernels/cuda/segment.c \
	kernels/cuda/segment.h \
	kernels/cuda/table.c \
	kernels/cuda/table.h

SUFFIXES = .cu
NVCC_COMPILE = $(NVCC) --forward-unknown-to-host-compiler -std=c++17 -O3 $(NVCC_GENCODE) \
	-fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics \
	$(DEFS) $(AM_CPPFLAGS) $(CPPFLAGS) $(NVCCFLAGS)
AM_V_NVCC = $(am__v_NVCC_@AM_V@)
am__v_NVCC_ = $(am__v_NVCC_@AM_DEFAULT_V@)
am__v_NVCC_0 = @echo "  NVCC    " $@;
am__v_NVCC_1 =
# libtool takes out what goes on -Xcompiler: nvcc itself passes on what it does not know.
# -shared: once, with -fPIC; it takes minutes, and nothing here is linked without.
.cu.lo:
	$(AM_V_NVCC)$(MKDIR_P) $(@D) && $(LIBTOOL) $(AM_V_lt) --tag=CC --mode=compile $(NVCC_COMPILE) -shared \
		-MD -MT $@ -MF $(@:.lo=.cu.d) -c -o $@ $<
# It says what they are built for.
$(CUDA_KERNELS:.cu=.lo): config.h
# What a .cu includes, from when it was last compiled.
@AMDEP_TRUE@-include kernels/cuda/*.cu.d plugins/cuda/*.cu.d tests/cuda/*.cu.d

if HAVE_CUDA
noinst_LTLIBRARIES += libkernels_cuda.la
libkernels_cuda_la_SOURCES = $(CUDA_TABLES)
libkernels_cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CFLAGS)
libkernels_cuda_la_LIBADD = $(CUDA_KERNELS:.cu=.lo)
libkernels_cuda_la_DEPENDENCIES = $(CUDA_KERNELS:.cu=.lo)
else
EXTRA_DIST += $(CUDA_TABLES)
endif
EXTRA_DIST += $(CUDA_KERNELS) $(CUDA_INCLUDES) kernels/cuda/NOTES.md
# Automake does not know of these.
mostlyclean-local:
	-rm -f kernels/cuda/*.lo kernels/cuda/*.o kernels/cuda/*.cu.d plugins/cuda/*.lo plugins/cuda/*.o \
		plugins/cuda/*.cu.d tests/cuda/*.lo tests/cuda/*.o tests/cuda/*.cu.d
	-rm -rf kernels/cuda/.libs plugins/cuda/.libs tests/cuda/.libs
