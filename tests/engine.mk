# SPDX-License-Identifier: Apache-2.0
# Tests of the ggml engine, built where configure found ggml.
if HAVE_GGML
if HAVE_CHECK
check_LTLIBRARIES += libtest_engine.la
endif
libtest_engine_la_SOURCES = tests/engine_host.c tests/engine_host.h \
	tests/edited_model.c tests/edited_model.h tests/gguf_edit.c tests/gguf_edit.h tests/oracle.c tests/oracle.h \
	core/testkit/random.c core/testkit/random.h tests/tiny_model.c tests/tiny_model.h
libtest_engine_la_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
libtest_engine_la_LIBADD = libengine_ggml.la libengine_llama.la libgguf_models.la libkvmod.la $(CHECK_LIBS) $(LIBM)

ENGINE_TESTS = tests/test_engine \
	tests/test_engine_ask \
	tests/test_engine_bounded \
	tests/test_engine_cache \
	tests/test_engine_chat \
	tests/test_engine_chat_parts \
	tests/test_engine_check \
	tests/test_engine_columns \
	tests/test_engine_divergence \
	tests/test_engine_divergence_gpu \
	tests/test_engine_extras \
	tests/test_engine_files \
	tests/test_engine_fuzz \
	tests/test_engine_gguf \
	tests/test_engine_golden \
	tests/test_engine_gpu \
	tests/test_engine_kvzip \
	tests/test_engine_llama \
	tests/test_engine_tuning \
	tests/test_engine_norms \
	tests/test_engine_phases \
	tests/test_engine_phases_gpu \
	tests/test_engine_phases_requests \
	tests/test_engine_phases_sides \
	tests/test_engine_replay \
	tests/test_engine_request \
	tests/test_engine_reread \
	tests/test_engine_sides \
	tests/test_engine_special \
	tests/test_engine_stats \
	tests/test_every_policy \
	tests/test_engine_stores \
	tests/test_engine_stores_gpu \
	tests/test_engine_text \
	tests/test_engine_rotations \
	tests/test_engine_random_calls \
	tests/test_streaming
tests_test_engine_SOURCES = tests/test_engine.c
tests_test_engine_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_ask_SOURCES = tests/test_engine_ask.c tests/sides.c tests/sides.h
tests_test_engine_ask_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS) -DFAKE_GPU
tests_test_engine_ask_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
tests_test_engine_bounded_SOURCES = tests/test_engine_bounded.c core/testkit/random.c \
	core/testkit/random.h tests/tiny_model.c tests/tiny_model.h
tests_test_engine_bounded_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_bounded_LDADD = libkvmod.la $(CHECK_LIBS) $(GGML_LIBS) $(LIBM)
tests_test_engine_cache_SOURCES = tests/test_engine_cache.c
tests_test_engine_cache_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_cache_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_check_SOURCES = tests/test_engine_check.c tests/sides.c tests/sides.h
tests_test_engine_check_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_check_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_columns_SOURCES = tests/test_engine_columns.c tests/column_sums.c tests/column_sums.h \
	tests/sides.c tests/sides.h
tests_test_engine_columns_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_columns_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
tests_test_engine_extras_SOURCES = tests/test_engine_extras.c tests/sides.c tests/sides.h
tests_test_engine_extras_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_extras_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_files_SOURCES = tests/test_engine_files.c
tests_test_engine_files_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_files_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_fuzz_SOURCES = tests/test_engine_fuzz.c
tests_test_engine_fuzz_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_fuzz_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_gguf_SOURCES = tests/test_engine_gguf.c
tests_test_engine_gguf_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_gguf_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_norms_SOURCES = tests/test_engine_norms.c \
	tests/norm_reference.c tests/norm_reference.h tests/sides.c tests/sides.h
tests_test_engine_norms_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_norms_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
PHASES_SOURCES = tests/phases.c tests/phases.h tests/shifted.c tests/shifted.h
tests_test_engine_phases_SOURCES = tests/test_engine_phases.c $(PHASES_SOURCES)
tests_test_engine_phases_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_phases_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_phases_requests_SOURCES = tests/test_engine_phases_requests.c $(PHASES_SOURCES)
tests_test_engine_phases_requests_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_phases_requests_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_rotations_SOURCES = tests/test_engine_rotations.c
tests_test_engine_rotations_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_rotations_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
# Loads the module, as the core does.
tests_test_engine_llama_SOURCES = tests/test_engine_llama.c core/testkit/random.c core/testkit/random.h \
	tests/tiny_model.c tests/tiny_model.h
tests_test_engine_llama_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_llama_LDADD = libkvmod.la $(CHECK_LIBS) $(GGML_LIBS) $(LIBM)
tests_test_engine_random_calls_SOURCES = tests/test_engine_random_calls.c tests/column_sums.c \
	tests/column_sums.h tests/norm_reference.c tests/norm_reference.h \
	tests/query_reference.c tests/query_reference.h
tests_test_engine_random_calls_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_random_calls_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
tests_test_engine_tuning_SOURCES = tests/test_engine_tuning.c
tests_test_engine_tuning_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_tuning_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_request_SOURCES = tests/test_engine_request.c
tests_test_engine_request_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_request_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_stats_SOURCES = tests/test_engine_stats.c tests/query_reference.c tests/query_reference.h
tests_test_engine_stats_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_stats_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
tests_test_engine_replay_SOURCES = tests/test_engine_replay.c
tests_test_engine_replay_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_replay_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_divergence_SOURCES = tests/test_engine_divergence.c tests/sides.c tests/sides.h
tests_test_engine_divergence_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_divergence_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
tests_test_engine_divergence_gpu_SOURCES = tests/test_engine_divergence.c tests/sides.c tests/sides.h
tests_test_engine_divergence_gpu_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_divergence_gpu_LDADD = libtest_engine.la $(GGML_LIBS) $(LIBM)
tests_test_engine_reread_SOURCES = tests/test_engine_reread.c tests/column_sums.c tests/column_sums.h \
	tests/sides.c tests/sides.h tests/e2e.c tests/e2e.h
tests_test_engine_reread_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS) -DFAKE_GPU
tests_test_engine_reread_LDADD = libtest_engine.la $(JANSSON_LIBS) $(GGML_LIBS) $(LIBM)
# With a CUDA GPU, and with a CPU backend that stands in for one.
tests_test_engine_gpu_SOURCES = tests/test_engine_gpu.c tests/sides.c tests/sides.h
tests_test_engine_gpu_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_gpu_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_sides_SOURCES = tests/test_engine_gpu.c tests/sides.c tests/sides.h
tests_test_engine_sides_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_sides_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_phases_gpu_SOURCES = tests/test_engine_phases_gpu.c tests/sides.c tests/sides.h
tests_test_engine_phases_gpu_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_phases_gpu_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_phases_sides_SOURCES = tests/test_engine_phases_gpu.c tests/sides.c tests/sides.h
tests_test_engine_phases_sides_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_phases_sides_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_stores_SOURCES = tests/test_engine_stores.c tests/sides.c tests/sides.h
tests_test_engine_stores_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) -DFAKE_GPU
tests_test_engine_stores_LDADD = libtest_engine.la $(GGML_LIBS)
tests_test_engine_stores_gpu_SOURCES = tests/test_engine_stores.c tests/sides.c tests/sides.h
tests_test_engine_stores_gpu_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_stores_gpu_LDADD = libtest_engine.la $(GGML_LIBS)
# On the default model; skipped if configure was given none.
tests_test_engine_text_SOURCES = tests/test_engine_text.c tests/e2e.c tests/e2e.h
tests_test_engine_text_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_engine_text_LDADD = libtest_engine.la $(JANSSON_LIBS) $(GGML_LIBS)
tests_test_engine_special_SOURCES = tests/test_engine_special.c
tests_test_engine_special_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_engine_special_LDADD = libtest_engine.la $(GGML_LIBS)
# Also needs Python's jinja2, for comparison.
tests_test_engine_chat_SOURCES = tests/test_engine_chat.c
tests_test_engine_chat_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_engine_chat_LDADD = libtest_engine.la $(JANSSON_LIBS) $(GGML_LIBS)
tests_test_engine_chat_parts_SOURCES = tests/test_engine_chat_parts.c tests/e2e.c tests/e2e.h
tests_test_engine_chat_parts_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_engine_chat_parts_LDADD = libtest_engine.la $(JANSSON_LIBS) $(GGML_LIBS)
E2E_MODEL_SOURCES = tests/e2e.c tests/e2e.h tests/e2e_model.c tests/e2e_model.h
tests_test_engine_golden_SOURCES = tests/test_engine_golden.c $(E2E_MODEL_SOURCES)
tests_test_engine_golden_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_engine_golden_LDADD = libbuiltin_refreekv.la libbuiltin_snapkv.la \
	libtest_engine.la $(JANSSON_LIBS) $(GGML_LIBS)
tests_test_engine_kvzip_SOURCES = tests/test_engine_kvzip.c $(E2E_MODEL_SOURCES)
tests_test_engine_kvzip_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_engine_kvzip_LDADD = libbuiltin_kvzip.la libtest_engine.la $(JANSSON_LIBS) $(GGML_LIBS)
tests_test_every_policy_SOURCES = tests/test_every_policy.c tests/policies.c tests/policies.h
tests_test_every_policy_CPPFLAGS = $(TEST_CPPFLAGS) $(E2E_CPPFLAGS)
tests_test_every_policy_LDADD = $(POLICIES_BUILT_IN) libvectors.la libkvmod.la $(CHECK_LIBS) $(LIBM)
tests_test_streaming_SOURCES = tests/test_streaming.c tests/shifted.c tests/shifted.h \
	tests/streaming.c tests/streaming.h
tests_test_streaming_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS) $(E2E_CPPFLAGS)
tests_test_streaming_LDADD = libkvmod.la $(CHECK_LIBS) $(GGML_LIBS) $(LIBM)
E2E_CPPFLAGS = $(JANSSON_CFLAGS) -DKVMOD_SRCDIR='"$(abs_srcdir)"' -DTEST_MODEL='"$(DEFAULT_MODEL)"'
UNIT_TESTS += $(ENGINE_TESTS)

UNIT_TESTS += tests/test_engine_threads
tests_test_engine_threads_SOURCES = tests/test_engine_threads.c
tests_test_engine_threads_CPPFLAGS = $(TEST_CPPFLAGS) $(GGML_CFLAGS)
tests_test_engine_threads_LDADD = libtest_engine.la $(GGML_LIBS)

# Writes models for measurements.
check_PROGRAMS += tests/random_model
tests_random_model_SOURCES = tests/random_model.c core/testkit/random.c core/testkit/random.h
tests_random_model_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
tests_random_model_LDADD = libkvmod.la $(GGML_LIBS) $(LIBM)
# Measures attention on the host against ggml's.
check_PROGRAMS += tests/bench_flash
tests_bench_flash_SOURCES = tests/bench_flash.c core/testkit/random.c core/testkit/random.h
tests_bench_flash_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
tests_bench_flash_LDADD = libkernels.la $(GGML_LIBS) $(LIBM)
# Measures what a stream loses in a bounded cache.
check_PROGRAMS += tests/stream_loss
tests_stream_loss_SOURCES = tests/stream_loss.c tests/shifted.c tests/shifted.h tests/streaming.c \
	tests/streaming.h
tests_stream_loss_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
tests_stream_loss_LDADD = libkvmod.la $(GGML_LIBS) $(LIBM)
endif

EXTRA_DIST += tests/golden/e2e-smollm2.jsonl tests/golden/e2e-kvzip-smollm2.jsonl \
	tests/golden/chat_templates.jsonl tests/chat_templates.py
