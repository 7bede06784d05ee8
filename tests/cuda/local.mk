# SPDX-License-Identifier: Apache-2.0
# Tests of the CUDA code, built if nvcc is installed. Without a GPU, all except
# test_extension, test_host, test_tables and test_workspace report themselves as skipped.
# Benchmarks are run by hand.
CUDA_TESTS = \
	tests/cuda/test_attention \
	tests/cuda/test_extension \
	tests/cuda/test_gather \
	tests/cuda/test_host \
	tests/cuda/test_policies \
	tests/cuda/test_reductions \
	tests/cuda/test_refreekv \
	tests/cuda/test_tables \
	tests/cuda/test_workspace
CUDA_BENCHES = \
	tests/cuda/bench_attention.cu \
	tests/cuda/bench_gather.cu \
	tests/cuda/bench_reductions.cu \
	tests/cuda/bench_refreekv.cu
CUDA_CHECKS = \
	tests/cuda/attention.c \
	tests/cuda/attention.h \
	tests/cuda/checks.h \
	tests/cuda/gpu.c \
	tests/cuda/gpu.h \
	tests/cuda/host.h \
	tests/cuda/reductions.c \
	tests/cuda/reductions.h \
	tests/cuda/runtime.c \
	tests/cuda/runtime.h \
	tests/cuda/test_attention.c \
	tests/cuda/test_extension.c \
	tests/cuda/test_gather.c \
	tests/cuda/test_host.c \
	tests/cuda/test_policies.c \
	tests/cuda/test_reductions.c \
	tests/cuda/test_refreekv.c \
	tests/cuda/test_tables.c \
	tests/cuda/test_workspace.c

if HAVE_CUDA
CUDA_TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CFLAGS) -DGOLDEN='"$(abs_srcdir)/tests/golden/"'
CUDA_TEST_LIBS = libkernels_cuda.la libvectors.la libkernels.la $(CUDA_LIBS) $(LIBM)
CUDA_DEVICE = plugins/cuda/attention.c plugins/cuda/attention.h plugins/cuda/device.c plugins/cuda/device.h \
	plugins/cuda/tables.c plugins/cuda/tables.h

check_PROGRAMS += $(CUDA_TESTS) $(CUDA_BENCHES:.cu=)
TESTS += $(CUDA_TESTS) tests/cuda/run.test.sh
tests_cuda_test_attention_SOURCES = tests/cuda/test_attention.c tests/cuda/checks.h tests/cuda/attention.c tests/cuda/attention.h \
	tests/cuda/gpu.c tests/cuda/gpu.h
tests_cuda_test_attention_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_attention_LDADD = $(CUDA_TEST_LIBS)
# Linked without CUDA's runtime: the test brings a made-up one.
tests_cuda_test_extension_SOURCES = tests/cuda/test_extension.c tests/cuda/checks.h tests/cuda/host.h \
	tests/cuda/reductions.c tests/cuda/reductions.h tests/cuda/runtime.c tests/cuda/runtime.h $(CUDA_HOST_CODE) \
	$(CUDA_DEVICE)
tests_cuda_test_extension_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_extension_LDADD = libvectors.la libkvmod.la libkernels.la $(LIBM)
tests_cuda_test_gather_SOURCES = tests/cuda/test_gather.c tests/cuda/checks.h tests/cuda/gpu.c tests/cuda/gpu.h
tests_cuda_test_gather_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_gather_LDADD = $(CUDA_TEST_LIBS)
# This one too.
tests_cuda_test_host_SOURCES = tests/cuda/test_host.c tests/cuda/checks.h tests/cuda/host.h tests/cuda/runtime.c tests/cuda/runtime.h \
	$(CUDA_HOST_CODE) $(CUDA_DEVICE) policies/cuda/ranking.c policies/cuda/refreekv.c policies/cuda/snapkv.c \
	policies/refreekv_params.c
tests_cuda_test_host_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_host_LDADD = libvectors.la libkvmod.la libkernels.la $(LIBM)
tests_cuda_test_policies_SOURCES = tests/cuda/test_policies.c tests/cuda/checks.h
tests_cuda_test_policies_CPPFLAGS = $(AM_CPPFLAGS) -DMODULES='"$(abs_builddir)/.libs"' \
	-DGOLDEN='"$(abs_srcdir)/tests/golden/"'
tests_cuda_test_policies_LDADD = libvectors.la libkvmod.la $(LIBM)
tests_cuda_test_reductions_SOURCES = tests/cuda/test_reductions.c tests/cuda/checks.h tests/cuda/host.h \
	tests/cuda/reductions.c tests/cuda/reductions.h $(CUDA_DEVICE)
tests_cuda_test_reductions_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_reductions_LDADD = $(CUDA_TEST_LIBS)
tests_cuda_test_refreekv_SOURCES = tests/cuda/test_refreekv.c tests/cuda/checks.h tests/cuda/gpu.c tests/cuda/gpu.h
tests_cuda_test_refreekv_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_refreekv_LDADD = $(CUDA_TEST_LIBS)
tests_cuda_test_tables_SOURCES = tests/cuda/test_tables.c tests/cuda/checks.h tests/cuda/runtime.c tests/cuda/runtime.h \
	$(CUDA_HOST_CODE)
tests_cuda_test_tables_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_tables_LDADD = libvectors.la libkvmod.la libkernels.la $(LIBM)
tests_cuda_test_workspace_SOURCES = tests/cuda/test_workspace.c tests/cuda/checks.h tests/cuda/host.h $(CUDA_DEVICE) \
	policies/cuda/ranking.c policies/cuda/refreekv.c policies/cuda/snapkv.c \
	policies/refreekv_params.c
tests_cuda_test_workspace_CPPFLAGS = $(CUDA_TEST_CPPFLAGS)
tests_cuda_test_workspace_LDADD = $(CUDA_TEST_LIBS)
tests_cuda_bench_attention_SOURCES =
tests_cuda_bench_attention_LDADD = tests/cuda/bench_attention.lo $(CUDA_TEST_LIBS)
tests_cuda_bench_gather_SOURCES =
tests_cuda_bench_gather_LDADD = tests/cuda/bench_gather.lo $(CUDA_TEST_LIBS)
tests_cuda_bench_reductions_SOURCES =
tests_cuda_bench_reductions_LDADD = tests/cuda/bench_reductions.lo $(CUDA_TEST_LIBS)
tests_cuda_bench_refreekv_SOURCES =
tests_cuda_bench_refreekv_LDADD = tests/cuda/bench_refreekv.lo $(CUDA_TEST_LIBS)
else
EXTRA_DIST += $(CUDA_CHECKS)
endif
TESTS += tests/cuda/includes.test.sh
EXTRA_DIST += $(CUDA_BENCHES) tests/cuda/authors_way.py tests/cuda/flash.py tests/cuda/includes.test.sh tests/cuda/run.test.sh
