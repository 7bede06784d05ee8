# SPDX-License-Identifier: Apache-2.0
# Unit tests are check programs; each is one line in UNIT_TESTS and its sources.
TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
# Static, so that a test reaches what libkvmod.so does not export.
UNIT_LINK = $(AM_LDFLAGS) -static
TEST_LIBS = libkvmod.la libkernels.la $(CHECK_LIBS) $(LIBM)

UNIT_TESTS = \
	tests/test_kernels \
	tests/test_plan \
	tests/test_policies \
	tests/test_scores

tests_test_plan_SOURCES = tests/test_plan.c
tests_test_plan_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_plan_LDFLAGS = $(UNIT_LINK)
tests_test_plan_LDADD = $(TEST_LIBS)

tests_test_kernels_SOURCES = tests/test_kernels.c tests/random.c tests/random.h
tests_test_kernels_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_kernels_LDADD = libkernels.la $(CHECK_LIBS) $(LIBM)

tests_test_policies_SOURCES = tests/test_policies.c
tests_test_policies_CPPFLAGS = $(TEST_CPPFLAGS) -DKVMOD_SRCDIR='"$(abs_srcdir)"'
tests_test_policies_LDADD = libbuiltin_adakv.la libbuiltin_random.la libbuiltin_snapkv.la \
	libbuiltin_streamingllm.la libbuiltin_topp.la libpolicies.la libvectors.la \
	libkvmod.la $(CHECK_LIBS) $(LIBM)

tests_test_scores_SOURCES = tests/test_scores.c
tests_test_scores_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_scores_LDADD = libpolicies.la libvectors.la libkvmod.la $(CHECK_LIBS) $(LIBM)

if HAVE_CHECK
check_PROGRAMS += $(UNIT_TESTS)
TESTS += $(UNIT_TESTS)
endif

EXTRA_DIST += \
	tests/golden/policies.txt \
	tests/golden/refreekv.txt

include $(srcdir)/tests/cli/local.mk
