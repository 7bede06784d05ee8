# SPDX-License-Identifier: Apache-2.0
# Tests of the core, with a fixture that they share, and modules with every fault.
if HAVE_CHECK
check_LTLIBRARIES += libfixture.la
endif
libfixture_la_SOURCES = tests/fixture.c tests/fixture.h
libfixture_la_CPPFLAGS = $(TEST_CPPFLAGS) -DTEST_MODULES='"$(abs_top_builddir)/tests/modules/.libs"'
FIXTURE_LIBS = libfixture.la $(TEST_LIBS)

UNIT_TESTS += tests/test_check
tests_test_check_SOURCES = tests/test_check.c
tests_test_check_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_check_LDFLAGS = $(UNIT_LINK)
tests_test_check_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_check_engine
tests_test_check_engine_SOURCES = tests/test_check_engine.c
tests_test_check_engine_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_check_engine_LDFLAGS = $(UNIT_LINK)
tests_test_check_engine_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_config
tests_test_config_SOURCES = tests/test_config.c
tests_test_config_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_config_LDFLAGS = $(UNIT_LINK)
tests_test_config_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_config_order
tests_test_config_order_SOURCES = tests/test_config_order.c
tests_test_config_order_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_config_order_LDFLAGS = $(UNIT_LINK)
tests_test_config_order_LDADD = $(FIXTURE_LIBS)

GPU_SOURCES = tests/madeup_gpu.c tests/madeup_gpu.h tests/reader.c tests/reader.h

UNIT_TESTS += tests/test_device
tests_test_device_SOURCES = tests/test_device.c $(GPU_SOURCES)
tests_test_device_CPPFLAGS = $(TEST_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=gpu_module
tests_test_device_LDFLAGS = $(UNIT_LINK)
tests_test_device_LDADD = $(FIXTURE_LIBS)

# The same on a device with a name that the core does not contain.
UNIT_TESTS += tests/test_device_npu
tests_test_device_npu_SOURCES = tests/test_device.c $(GPU_SOURCES)
tests_test_device_npu_CPPFLAGS = $(tests_test_device_CPPFLAGS) -DMADEUP_DEVICE=npu
tests_test_device_npu_LDFLAGS = $(UNIT_LINK)
tests_test_device_npu_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_dlfile
tests_test_dlfile_SOURCES = tests/test_dlfile.c
tests_test_dlfile_CPPFLAGS = $(TEST_CPPFLAGS) -DTEST_MODULES='"$(abs_top_builddir)/tests/modules/.libs"'
tests_test_dlfile_LDFLAGS = $(UNIT_LINK) -Wl,--wrap=dlopen,--wrap=pread
tests_test_dlfile_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_fuzz
tests_test_fuzz_SOURCES = tests/test_fuzz.c
tests_test_fuzz_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_fuzz_LDFLAGS = $(UNIT_LINK)
tests_test_fuzz_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_metadata
tests_test_metadata_SOURCES = tests/test_metadata.c
tests_test_metadata_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_metadata_LDFLAGS = $(UNIT_LINK)
tests_test_metadata_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_hostile
tests_test_hostile_SOURCES = tests/test_hostile.c tests/hostile.c tests/hostile.h
tests_test_hostile_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_hostile_LDFLAGS = $(UNIT_LINK)
tests_test_hostile_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_hostile_calls
tests_test_hostile_calls_SOURCES = tests/test_hostile_calls.c tests/hostile.c tests/hostile.h
tests_test_hostile_calls_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_hostile_calls_LDFLAGS = $(UNIT_LINK)
tests_test_hostile_calls_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_request
tests_test_request_SOURCES = tests/test_request.c
tests_test_request_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_request_LDFLAGS = $(UNIT_LINK)
tests_test_request_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_request_counts
tests_test_request_counts_SOURCES = tests/test_request_counts.c
tests_test_request_counts_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_request_counts_LDFLAGS = $(UNIT_LINK)
tests_test_request_counts_LDADD = libbuiltin_snapkv.la $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_answers
tests_test_answers_SOURCES = tests/test_answers.c
tests_test_answers_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_answers_LDFLAGS = $(UNIT_LINK)
tests_test_answers_LDADD = libbuiltin_fake.la $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_names
tests_test_names_SOURCES = tests/test_names.c
tests_test_names_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_names_LDFLAGS = $(UNIT_LINK)
tests_test_names_LDADD = $(TEST_LIBS)

UNIT_TESTS += tests/test_loader
tests_test_loader_SOURCES = tests/test_loader.c
tests_test_loader_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_loader_LDFLAGS = $(UNIT_LINK)
tests_test_loader_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_params
tests_test_params_SOURCES = tests/test_params.c
tests_test_params_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_params_LDFLAGS = $(UNIT_LINK)
tests_test_params_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_threads
tests_test_threads_SOURCES = tests/test_threads.c
tests_test_threads_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_threads_LDFLAGS = $(UNIT_LINK)
tests_test_threads_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_refusals
tests_test_refusals_SOURCES = tests/test_refusals.c
tests_test_refusals_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_refusals_LDFLAGS = $(UNIT_LINK)
tests_test_refusals_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_registry
tests_test_registry_SOURCES = tests/test_registry.c
tests_test_registry_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_registry_LDFLAGS = $(UNIT_LINK)
tests_test_registry_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_scale
tests_test_scale_SOURCES = tests/test_scale.c
tests_test_scale_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_scale_LDFLAGS = $(UNIT_LINK)
tests_test_scale_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_staging
tests_test_staging_SOURCES = tests/test_staging.c $(GPU_SOURCES)
tests_test_staging_CPPFLAGS = $(TEST_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=gpu_module
tests_test_staging_LDFLAGS = $(UNIT_LINK)
tests_test_staging_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_staging_npu
tests_test_staging_npu_SOURCES = tests/test_staging.c $(GPU_SOURCES)
tests_test_staging_npu_CPPFLAGS = $(tests_test_staging_CPPFLAGS) -DMADEUP_DEVICE=npu
tests_test_staging_npu_LDFLAGS = $(UNIT_LINK)
tests_test_staging_npu_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_two_devices
tests_test_two_devices_SOURCES = tests/test_two_devices.c $(GPU_SOURCES)
tests_test_two_devices_CPPFLAGS = $(tests_test_staging_CPPFLAGS) -DMADEUP_DEVICE=npu
tests_test_two_devices_LDFLAGS = $(UNIT_LINK)
tests_test_two_devices_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_oom
tests_test_oom_SOURCES = tests/test_oom.c
tests_test_oom_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_oom_LDFLAGS = $(UNIT_LINK) -Wl,--wrap=malloc,--wrap=calloc,--wrap=reallocarray \
	-Wl,--wrap=aligned_alloc,--wrap=strdup,--wrap=realpath,--wrap=scandir,--wrap=tsearch
tests_test_oom_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_abi
tests_test_abi_SOURCES = tests/test_abi.c
tests_test_abi_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_abi_LDADD = $(CHECK_LIBS)

# Needs the modules of these tests.
if HAVE_CHECK
TESTS += tests/cli/device.test.sh
endif
EXTRA_DIST += tests/cli/device.test.sh

TESTS += tests/device_names.test.sh
EXTRA_DIST += tests/device_names.test.sh

TESTS += tests/threads.test.sh
EXTRA_DIST += tests/threads.test.sh tests/races.c

TESTS += tests/abi.test.sh
EXTRA_DIST += tests/abi.test.sh

include $(srcdir)/tests/modules/local.mk

UNIT_TESTS += tests/test_scorer
tests_test_scorer_SOURCES = tests/test_scorer.c
tests_test_scorer_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_scorer_LDFLAGS = $(UNIT_LINK)
tests_test_scorer_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_scorer_layers
tests_test_scorer_layers_SOURCES = tests/test_scorer_layers.c
tests_test_scorer_layers_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_scorer_layers_LDFLAGS = $(UNIT_LINK)
tests_test_scorer_layers_LDADD = $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_scorer_loss
tests_test_scorer_loss_SOURCES = tests/test_scorer_loss.c
tests_test_scorer_loss_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_scorer_loss_LDFLAGS = $(UNIT_LINK)
tests_test_scorer_loss_LDADD = $(FIXTURE_LIBS)
UNIT_TESTS += tests/test_kvzip
tests_test_kvzip_SOURCES = tests/test_kvzip.c
tests_test_kvzip_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_kvzip_LDFLAGS = $(UNIT_LINK)
tests_test_kvzip_LDADD = libbuiltin_kvzip.la $(FIXTURE_LIBS)

UNIT_TESTS += tests/test_replay
tests_test_replay_SOURCES = tests/test_replay.c core/testkit/random.c core/testkit/random.h
tests_test_replay_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_replay_LDFLAGS = $(UNIT_LINK)
tests_test_replay_LDADD = libbuiltin_contribution.la libbuiltin_replay.la $(FIXTURE_LIBS) $(LIBM)

KIT_SOURCES = tests/kit.c tests/kit.h tests/simd_levels.h
UNIT_TESTS += tests/test_toolkit
tests_test_toolkit_SOURCES = tests/test_toolkit.c $(KIT_SOURCES)
tests_test_toolkit_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_toolkit_LDFLAGS = $(UNIT_LINK)
tests_test_toolkit_LDADD = libfixture.la libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_toolkit_attention
tests_test_toolkit_attention_SOURCES = tests/test_toolkit_attention.c $(KIT_SOURCES)
tests_test_toolkit_attention_CPPFLAGS = $(TEST_CPPFLAGS)
tests_test_toolkit_attention_LDFLAGS = $(UNIT_LINK)
tests_test_toolkit_attention_LDADD = libfixture.la libvectors.la $(TEST_LIBS)

UNIT_TESTS += tests/test_extensions
tests_test_extensions_SOURCES = tests/test_extensions.c
tests_test_extensions_CPPFLAGS = $(TEST_CPPFLAGS) -DMODULES='"$(abs_top_builddir)/.libs"'
tests_test_extensions_LDFLAGS = $(UNIT_LINK)
tests_test_extensions_LDADD = $(FIXTURE_LIBS)
