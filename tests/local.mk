# SPDX-License-Identifier: Apache-2.0
# Unit tests are programs on the library check; each adds itself to UNIT_TESTS.
TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
# Static, so that a test reaches what libkvmod.so does not export.
UNIT_LINK = $(AM_LDFLAGS) -static
TEST_LIBS = libkvmod.la libkernels.la $(CHECK_LIBS) $(LIBM)

# check allows a test four seconds: too few if other programs keep the processors busy.
AM_TESTS_ENVIRONMENT = CK_TIMEOUT_MULTIPLIER=$${CK_TIMEOUT_MULTIPLIER:-10}; \
	export CK_TIMEOUT_MULTIPLIER; \
	HAVE_CHECK=@have_check@ HAVE_CUDA=@have_cuda@ HAVE_GGML=@have_ggml@; \
	export HAVE_CHECK HAVE_CUDA HAVE_GGML;

# Tests that are not built are reported as skipped.
if !ALL_BUILT
TESTS += tests/skipped.test.sh
endif
EXTRA_DIST += tests/skipped.test.sh

UNIT_TESTS =

# The engine `fake`, a module of tests of the command and linked in here.
FAKE_SOURCES = tests/cli/fake_engine.c tests/cli/fake_engine.h tests/cli/fake_text.c

UNIT_TESTS += tests/test_decide
tests_test_decide_SOURCES = tests/test_decide.c
tests_test_decide_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_decide_LDFLAGS = $(UNIT_LINK)
tests_test_decide_LDADD = $(TEST_LIBS)

UNIT_TESTS += tests/test_gaps
tests_test_gaps_SOURCES = tests/test_gaps.c
tests_test_gaps_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_gaps_LDFLAGS = $(UNIT_LINK)
tests_test_gaps_LDADD = $(TEST_LIBS)

UNIT_TESTS += tests/test_plan
tests_test_plan_SOURCES = tests/test_plan.c
tests_test_plan_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_plan_LDFLAGS = $(UNIT_LINK)
tests_test_plan_LDADD = $(TEST_LIBS)

UNIT_TESTS += tests/test_session
check_LTLIBRARIES += libbuiltin_fake.la
libbuiltin_fake_la_SOURCES = $(FAKE_SOURCES)
libbuiltin_fake_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_fake
SESSION_SOURCES = tests/watch.c tests/watch.h
tests_test_session_SOURCES = tests/test_session.c $(SESSION_SOURCES)
tests_test_session_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_session_LDFLAGS = $(UNIT_LINK)
tests_test_session_LDADD = libbuiltin_fake.la libbuiltin_h2o.la libbuiltin_streamingllm.la $(TEST_LIBS)
UNIT_TESTS += tests/test_session_prompts
tests_test_session_prompts_SOURCES = tests/test_session_prompts.c $(SESSION_SOURCES)
tests_test_session_prompts_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_session_prompts_LDFLAGS = $(UNIT_LINK)
tests_test_session_prompts_LDADD = libbuiltin_fake.la libbuiltin_h2o.la libbuiltin_streamingllm.la $(TEST_LIBS)
UNIT_TESTS += tests/test_session_collect
tests_test_session_collect_SOURCES = tests/test_session_collect.c $(SESSION_SOURCES)
tests_test_session_collect_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_session_collect_LDFLAGS = $(UNIT_LINK)
tests_test_session_collect_LDADD = libbuiltin_fake.la libbuiltin_h2o.la libbuiltin_streamingllm.la $(TEST_LIBS)

UNIT_TESTS += tests/test_rotation
tests_test_rotation_SOURCES = tests/test_rotation.c tests/madeup_gpu.c tests/madeup_gpu.h \
	core/testkit/random.c core/testkit/random.h
tests_test_rotation_CPPFLAGS = $(TEST_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=gpu_module
tests_test_rotation_LDFLAGS = $(UNIT_LINK)
tests_test_rotation_LDADD = $(TEST_LIBS)

UNIT_TESTS += tests/test_window_layers
check_LTLIBRARIES += libbuiltin_window.la
libbuiltin_window_la_SOURCES = $(FAKE_SOURCES)
libbuiltin_window_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_window \
	-DFAKE_WINDOW_LAYERS=1
tests_test_window_layers_SOURCES = tests/test_window_layers.c
tests_test_window_layers_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_window_layers_LDFLAGS = $(UNIT_LINK)
tests_test_window_layers_LDADD = libbuiltin_window.la $(TEST_LIBS)

UNIT_TESTS += tests/test_engine_calls
tests_test_engine_calls_SOURCES = tests/test_engine_calls.c
tests_test_engine_calls_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_engine_calls_LDFLAGS = $(UNIT_LINK)
tests_test_engine_calls_LDADD = libbuiltin_window.la $(TEST_LIBS)

UNIT_TESTS += tests/test_columns
tests_test_columns_SOURCES = tests/test_columns.c tests/simd_levels.h core/testkit/random.c core/testkit/random.h
tests_test_columns_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_columns_LDADD = libkernels.la $(CHECK_LIBS) $(LIBM)

UNIT_TESTS += tests/test_flash
tests_test_flash_SOURCES = tests/test_flash.c tests/simd_levels.h core/testkit/random.c core/testkit/random.h
tests_test_flash_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_flash_LDADD = libkernels.la $(CHECK_LIBS) $(LIBM)

UNIT_TESTS += tests/test_wo_norms
tests_test_wo_norms_SOURCES = tests/test_wo_norms.c tests/simd_levels.h core/testkit/random.c core/testkit/random.h
tests_test_wo_norms_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_wo_norms_LDADD = libkernels.la $(CHECK_LIBS) $(LIBM)

UNIT_TESTS += tests/test_kernels
tests_test_kernels_SOURCES = tests/test_kernels.c tests/simd_levels.h core/testkit/random.c core/testkit/random.h
tests_test_kernels_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_kernels_LDADD = libkernels.la $(CHECK_LIBS) $(LIBM)

UNIT_TESTS += tests/test_attention
tests_test_attention_SOURCES = tests/test_attention.c tests/refreekv_layer.c \
	tests/refreekv_layer.h tests/simd_levels.h
tests_test_attention_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_attention_LDFLAGS = $(UNIT_LINK)
tests_test_attention_LDADD = libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_policies
tests_test_policies_SOURCES = tests/test_policies.c tests/policies.c tests/policies.h \
	tests/simd_levels.h
tests_test_policies_CPPFLAGS = $(TEST_CPPFLAGS) -DKVMOD_SRCDIR='"$(abs_srcdir)"'
tests_test_policies_LDFLAGS = $(UNIT_LINK)
tests_test_policies_LDADD = $(POLICIES_BUILT_IN) libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_policies_each
tests_test_policies_each_SOURCES = tests/test_policies_each.c tests/policies.c tests/policies.h
tests_test_policies_each_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_policies_each_LDFLAGS = $(UNIT_LINK)
tests_test_policies_each_LDADD = $(POLICIES_BUILT_IN) libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_layers
tests_test_layers_SOURCES = tests/test_layers.c tests/layers_reference.c tests/layers_reference.h \
	tests/refreekv_reference.c tests/refreekv_reference.h tests/policies.c tests/policies.h
tests_test_layers_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_layers_LDFLAGS = $(UNIT_LINK)
tests_test_layers_LDADD = $(POLICIES_BUILT_IN) libvectors.la $(TEST_LIBS)
UNIT_TESTS += tests/test_values
tests_test_values_SOURCES = tests/test_values.c tests/values_reference.c tests/values_reference.h \
	tests/refreekv_reference.c tests/refreekv_reference.h tests/policies.c tests/policies.h
tests_test_values_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_values_LDFLAGS = $(UNIT_LINK)
tests_test_values_LDADD = $(POLICIES_BUILT_IN) libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_duo
tests_test_duo_SOURCES = tests/test_duo.c tests/policies.c tests/policies.h
tests_test_duo_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_duo_LDFLAGS = $(UNIT_LINK)
tests_test_duo_LDADD = $(POLICIES_BUILT_IN) libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_scores
tests_test_scores_SOURCES = tests/test_scores.c
tests_test_scores_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_scores_LDFLAGS = $(UNIT_LINK)
tests_test_scores_LDADD = libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_refreekv
tests_test_refreekv_SOURCES = tests/test_refreekv.c tests/refreekv_layer.c \
	tests/refreekv_layer.h tests/refreekv_reference.c tests/refreekv_reference.h
tests_test_refreekv_CPPFLAGS = $(TEST_CPPFLAGS) -DGOLDEN='"$(abs_srcdir)/tests/golden/"'
tests_test_refreekv_LDFLAGS = $(UNIT_LINK)
tests_test_refreekv_LDADD = libbuiltin_refreekv.la libvectors.la $(TEST_LIBS)

# Conversations, compared with references in double precision; second_turns writes
# golden vectors of them.
POLICY_REFERENCES = tests/policies_reference.c tests/policies_reference.h tests/policies_scores.c \
	tests/refreekv_reference.c tests/refreekv_reference.h
UNIT_TESTS += tests/test_turns
tests_test_turns_SOURCES = tests/test_turns.c $(POLICY_REFERENCES)
tests_test_turns_CPPFLAGS = $(TEST_CPPFLAGS) -DGOLDEN='"$(abs_srcdir)/tests/golden/"'
tests_test_turns_LDFLAGS = $(UNIT_LINK)
tests_test_turns_LDADD = $(POLICIES_BUILT_IN) libbuiltin_fake.la libvectors.la $(TEST_LIBS)
UNIT_TESTS += tests/test_policies_shapes
tests_test_policies_shapes_SOURCES = tests/test_policies_shapes.c tests/policies.c tests/policies.h \
	$(POLICY_REFERENCES)
tests_test_policies_shapes_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_policies_shapes_LDFLAGS = $(UNIT_LINK)
tests_test_policies_shapes_LDADD = $(POLICIES_BUILT_IN) libvectors.la $(TEST_LIBS)
check_PROGRAMS += tests/second_turns
tests_second_turns_SOURCES = tests/second_turns.c $(POLICY_REFERENCES)
tests_second_turns_LDADD = libvectors.la libkernels.la libkvmod.la $(LIBM)

UNIT_TESTS += tests/test_cli
tests_test_cli_SOURCES = tests/test_cli.c
tests_test_cli_CPPFLAGS = $(TEST_CPPFLAGS) $(JANSSON_CFLAGS)
tests_test_cli_LDADD = libkvmodcli.la libkvmod.la $(JANSSON_LIBS) $(CHECK_LIBS) $(LIBM)

EVAL_LIBS = libeval.la libkvmodcli.la libkvmod.la $(JANSSON_LIBS) $(CHECK_LIBS) $(LIBM)
UNIT_TESTS += tests/test_eval_cases
tests_test_eval_cases_SOURCES = tests/test_eval_cases.c core/eval/cases.c core/eval/cases.h
tests_test_eval_cases_CPPFLAGS = $(TEST_CPPFLAGS) $(JANSSON_CFLAGS)
tests_test_eval_cases_LDADD = $(EVAL_LIBS)

UNIT_TESTS += tests/test_eval_data
tests_test_eval_data_SOURCES = tests/test_eval_data.c
tests_test_eval_data_CPPFLAGS = $(TEST_CPPFLAGS) $(JANSSON_CFLAGS)
tests_test_eval_data_LDADD = $(EVAL_LIBS)

UNIT_TESTS += tests/test_eval_metric
tests_test_eval_metric_SOURCES = tests/test_eval_metric.c
tests_test_eval_metric_CPPFLAGS = $(TEST_CPPFLAGS) $(JANSSON_CFLAGS)
tests_test_eval_metric_LDADD = $(EVAL_LIBS)

UNIT_TESTS += tests/test_eval_summary
tests_test_eval_summary_SOURCES = tests/test_eval_summary.c
tests_test_eval_summary_CPPFLAGS = $(TEST_CPPFLAGS) $(JANSSON_CFLAGS)
tests_test_eval_summary_LDADD = $(EVAL_LIBS)

UNIT_TESTS += tests/test_plot
tests_test_plot_SOURCES = tests/test_plot.c core/plot/escape.c core/plot/page.c core/plot/page.h \
	core/plot/plot.h core/plot/width.c
tests_test_plot_CPPFLAGS = $(TEST_CPPFLAGS) $(JANSSON_CFLAGS)
tests_test_plot_LDADD = libkvmodcli.la libkvmod.la $(JANSSON_LIBS) $(CHECK_LIBS) $(LIBM)

include $(srcdir)/tests/core.mk
include $(srcdir)/tests/engine.mk

UNIT_TESTS += tests/test_vectors
tests_test_vectors_SOURCES = tests/test_vectors.c
tests_test_vectors_CPPFLAGS = $(TEST_CPPFLAGS) -DKVMOD_SRCDIR='"$(abs_srcdir)"'
tests_test_vectors_LDADD = libvectors.la libkvmod.la $(CHECK_LIBS) $(LIBM)

if HAVE_CHECK
check_PROGRAMS += $(UNIT_TESTS)
TESTS += $(UNIT_TESTS)
endif

# A module in which selftest must find faults, and one that does not even load.
check_LTLIBRARIES += tests/misbehave.la tests/dead.la
tests_misbehave_la_SOURCES = tests/misbehave.c
tests_misbehave_la_LDFLAGS = $(MODULE_LINK) -rpath /nowhere
tests_dead_la_SOURCES = tests/misbehave.c
tests_dead_la_CPPFLAGS = $(AM_CPPFLAGS) -DDEAD
tests_dead_la_LDFLAGS = $(MODULE_LINK) -rpath /nowhere
TESTS += tests/selftest.test.sh tests/toolkit.test.sh

EXTRA_DIST += \
	tests/selftest.test.sh \
	tests/toolkit.test.sh \
	tests/golden/knorm.txt \
	tests/golden/policies.txt \
	tests/golden/refreekv.txt \
	tests/golden/second-turns.txt

include $(srcdir)/tests/cli/local.mk
include $(srcdir)/tests/cuda/local.mk

if HAVE_CHECK
TESTS += tests/valgrind.test.sh
endif
TESTS += tests/rooms.test.sh tests/bootstrap.test.sh tests/install.test.sh
EXTRA_DIST += tests/compare.py tests/rooms.test.sh tests/bootstrap.test.sh tests/install.test.sh \
	tests/valgrind.test.sh

# The tests of core, policies and command, to run while working on them. Tests that run a
# model, or take long, run only with `make check`.
check-fast: all
	@$(MAKE) $(AM_MAKEFLAGS) $(check_PROGRAMS) $(check_LTLIBRARIES)
	@fast=; for test in $(TESTS); do \
		case $$test in \
		*/test_engine*|*/test_streaming*|*/model.test.sh|*/check_model.test.sh) ;; \
		*/threads.test.sh|*/valgrind.test.sh|*/bootstrap.test.sh|*/install.test.sh) ;; \
		*/oom.test.sh|*/cuda/test_*|*/cuda/run.test.sh) ;; \
		*) fast="$$fast $$test" ;; \
		esac; \
	done; \
	$(MAKE) $(AM_MAKEFLAGS) check-TESTS TESTS="$$fast"
.PHONY: check-fast
installcheck-local:
	INSTALLED=yes DESTDIR="$(DESTDIR)" $(SHELL) $(srcdir)/tests/install.test.sh
