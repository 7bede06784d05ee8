# SPDX-License-Identifier: Apache-2.0
# The program as users run it: each script runs the built kvmod and compares its output.
# Most need no model: the engine `fake` is a module of these tests.
check_LTLIBRARIES += tests/cli/fake.la
tests_cli_fake_la_SOURCES = $(FAKE_SOURCES)
tests_cli_fake_la_LDFLAGS = $(MODULE_LINK) -rpath /nowhere

# In its own folder: together with the module cuda there would be two devices of that name.
check_LTLIBRARIES += tests/cli/device/fake_device.la
tests_cli_device_fake_device_la_SOURCES = tests/cli/fake_device.c
tests_cli_device_fake_device_la_LDFLAGS = $(MODULE_LINK) -rpath /nowhere

# In its own folder, because it prints.
check_LTLIBRARIES += tests/cli/noisy/noisy.la
tests_cli_noisy_noisy_la_SOURCES = tests/cli/noisy.c
tests_cli_noisy_noisy_la_LDFLAGS = $(MODULE_LINK) -rpath /nowhere

# Preloaded into the command, so it is built without sanitizers.
check_LTLIBRARIES += tests/cli/failing.la
tests_cli_failing_la_SOURCES = tests/cli/failing.c
tests_cli_failing_la_CFLAGS = $(AM_CFLAGS) -fno-builtin -fno-sanitize=all
tests_cli_failing_la_LDFLAGS = $(AM_LDFLAGS) -module -avoid-version -shared -rpath /nowhere

check_PROGRAMS += tests/cli/json_check
tests_cli_json_check_SOURCES = tests/cli/json_check.c
tests_cli_json_check_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_cli_json_check_LDADD = $(JANSSON_LIBS)

CLI_TESTS = \
	tests/cli/bench.test.sh \
	tests/cli/bench_decision.test.sh \
	tests/cli/bench_device.test.sh \
	tests/cli/bench_gather.test.sh \
	tests/cli/check.test.sh \
	tests/cli/check_model.test.sh \
	tests/cli/completion.test.sh \
	tests/cli/context_first.test.sh \
	tests/cli/eval.test.sh \
	tests/cli/fifo.test.sh \
	tests/cli/heads.test.sh \
	tests/cli/hints.test.sh \
	tests/cli/model.test.sh \
	tests/cli/modules.test.sh \
	tests/cli/new.test.sh \
	tests/cli/oom.test.sh \
	tests/cli/output.test.sh \
	tests/cli/plot.test.sh \
	tests/cli/plot_text.test.sh \
	tests/cli/print.test.sh \
	tests/cli/run.test.sh \
	tests/cli/terminal.test.sh \
	tests/cli/text.test.sh \
	tests/cli/usage.test.sh
TESTS += $(CLI_TESTS)
EXTRA_DIST += tests/cli/lib.sh $(CLI_TESTS)
