# SPDX-License-Identifier: Apache-2.0
# The program as people run it: each script runs the built kvmod and compares what
# it says. Most need no model: the engine `fake` is a module of these tests.
check_LTLIBRARIES += tests/cli/fake.la
tests_cli_fake_la_SOURCES = tests/cli/fake_engine.c
tests_cli_fake_la_LDFLAGS = $(MODULE_LINK) -rpath /nowhere
