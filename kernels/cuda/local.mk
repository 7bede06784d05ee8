# SPDX-License-Identifier: Apache-2.0
# CUDA kernels, each .cu self-contained. Their only host code is that of kernel launches,
# which needs no C++ library.
CUDA_KERNELS = \
	kernels/cuda/attend/attend.cu \
	kernels/cuda/columns/columns.cu \
	kernels/cuda/gather/gather.cu \
	kernels/cuda/norms/norms.cu \
	kernels/cuda/read/read.cu \
	kernels/cuda/refreekv/by_attention.cu \
	kernels/cuda/refreekv/refreekv.cu
CUDA_INCLUDES = \
	kernels/cuda/attend/select.cuh \
	kernels/cuda/attention/block.cuh \
	kernels/cuda/attention/kernel.cuh \
	kernels/cuda/attention/list.cuh \
	kernels/cuda/attention/readings.cuh \
	kernels/cuda/base/fma.cuh \
	kernels/cuda/base/keys.cuh \
	kernels/cuda/base/launch.cuh \
	kernels/cuda/base/logit.cuh \
	kernels/cuda/base/memory.cuh \
	kernels/cuda/base/mma.cuh \
	kernels/cuda/base/paths.cuh \
	kernels/cuda/base/q8.cuh \
	kernels/cuda/base/rows.cuh \
	kernels/cuda/base/warp.cuh \
	kernels/cuda/columns/kernels.cuh \
	kernels/cuda/norms/kernel.cuh \
	kernels/cuda/refreekv/decision.cuh \
	kernels/cuda/refreekv/finish.cuh \
	kernels/cuda/refreekv/many_rows.cuh \
	kernels/cuda/refreekv/many_rows_steps.cuh \
	kernels/cuda/refreekv/norm.cuh \
	kernels/cuda/refreekv/one_row.cuh
CUDA_HOST_CODE = \
	kernels/cuda/attend/attend.h \
	kernels/cuda/attend/rules.c \
	kernels/cuda/attention/attention.h \
	kernels/cuda/attention/tasks.c \
	kernels/cuda/attention/tasks.h \
	kernels/cuda/base/error.c \
	kernels/cuda/base/error.h \
	kernels/cuda/base/limits.h \
	kernels/cuda/base/rows.c \
	kernels/cuda/base/rows.h \
	kernels/cuda/base/segment.c \
	kernels/cuda/base/segment.h \
	kernels/cuda/columns/columns.h \
	kernels/cuda/columns/table.c \
	kernels/cuda/columns/table.h \
	kernels/cuda/gather/gather.h \
	kernels/cuda/gather/table.c \
	kernels/cuda/gather/table.h \
	kernels/cuda/norms/norms.h \
	kernels/cuda/norms/table.c \
	kernels/cuda/norms/table.h \
	kernels/cuda/read/read.h \
	kernels/cuda/refreekv/by_attention.h \
	kernels/cuda/refreekv/by_attention_rule.c \
	kernels/cuda/refreekv/refreekv.h \
	kernels/cuda/refreekv/table.c \
	kernels/cuda/refreekv/table.h

SUFFIXES = .cu
NVCC_COMPILE = $(NVCC) --forward-unknown-to-host-compiler -std=c++17 -O3 $(NVCC_GENCODE) \
	-fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics \
	$(DEFS) $(AM_CPPFLAGS) $(CPPFLAGS) $(NVCCFLAGS)
AM_V_NVCC = $(am__v_NVCC_@AM_V@)
am__v_NVCC_ = $(am__v_NVCC_@AM_DEFAULT_V@)
am__v_NVCC_0 = @echo "  NVCC    " $@;
am__v_NVCC_1 =
# libtool drops -Xcompiler options; nvcc itself forwards options that it does not know.
# -shared: compile once, with -fPIC; compiling takes minutes, and all code here is PIC.
.cu.lo:
	$(AM_V_NVCC)$(MKDIR_P) $(@D) && $(LIBTOOL) $(AM_V_lt) --tag=CC --mode=compile $(NVCC_COMPILE) -shared \
		-MD -MT $@ -MF $(@:.lo=.cu.d) -c -o $@ $<
# config.h has the architectures that the kernels are built for.
$(CUDA_KERNELS:.cu=.lo): config.h
# The headers that each .cu included when it was last compiled.
@AMDEP_TRUE@-include kernels/cuda/*/*.cu.d tests/cuda/*.cu.d

if HAVE_CUDA
noinst_LTLIBRARIES += libkernels_cuda.la
libkernels_cuda_la_SOURCES = $(CUDA_HOST_CODE)
libkernels_cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CFLAGS)
libkernels_cuda_la_LIBADD = $(CUDA_KERNELS:.cu=.lo)
libkernels_cuda_la_DEPENDENCIES = $(CUDA_KERNELS:.cu=.lo)
else
EXTRA_DIST += $(CUDA_HOST_CODE)
endif
EXTRA_DIST += $(CUDA_KERNELS) $(CUDA_INCLUDES) kernels/cuda/NOTES.md
# Automake does not know of these.
mostlyclean-local:
	-rm -f kernels/cuda/*/*.lo kernels/cuda/*/*.o kernels/cuda/*/*.cu.d \
		tests/cuda/*.lo tests/cuda/*.o tests/cuda/*.cu.d
	-rm -rf kernels/cuda/*/.libs tests/cuda/.libs
