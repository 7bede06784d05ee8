# SPDX-License-Identifier: Apache-2.0
# One module per policy, from one source (refreekv has several) that needs only the
# installed headers. Each is also linked statically, its descriptor under another name:
# tests run every policy both ways.
POLICIES_BUILT_IN =
refreekv_sources = \
	policies/refreekv.c \
	policies/refreekv.h \
	policies/refreekv_attention.c \
	policies/refreekv_params.c \
	policies/refreekv_params.h \
	policies/refreekv_position.c

module_LTLIBRARIES += adakv.la
adakv_la_SOURCES = policies/adakv.c
adakv_la_LDFLAGS = $(MODULE_LINK)
adakv_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_adakv.la
libbuiltin_adakv_la_SOURCES = policies/adakv.c
libbuiltin_adakv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_adakv
POLICIES_BUILT_IN += libbuiltin_adakv.la

module_LTLIBRARIES += contribution.la
contribution_la_SOURCES = policies/contribution.c
contribution_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_contribution.la
libbuiltin_contribution_la_SOURCES = policies/contribution.c
libbuiltin_contribution_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_contribution
POLICIES_BUILT_IN += libbuiltin_contribution.la

module_LTLIBRARIES += expected.la
expected_la_SOURCES = policies/expected.c
expected_la_LDFLAGS = $(MODULE_LINK)
expected_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_expected.la
libbuiltin_expected_la_SOURCES = policies/expected.c
libbuiltin_expected_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_expected
POLICIES_BUILT_IN += libbuiltin_expected.la

module_LTLIBRARIES += keydiff.la
keydiff_la_SOURCES = policies/keydiff.c
keydiff_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_keydiff.la
libbuiltin_keydiff_la_SOURCES = policies/keydiff.c
libbuiltin_keydiff_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_keydiff
POLICIES_BUILT_IN += libbuiltin_keydiff.la

module_LTLIBRARIES += lagkv.la
lagkv_la_SOURCES = policies/lagkv.c
lagkv_la_LDFLAGS = $(MODULE_LINK)
lagkv_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_lagkv.la
libbuiltin_lagkv_la_SOURCES = policies/lagkv.c
libbuiltin_lagkv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_lagkv
POLICIES_BUILT_IN += libbuiltin_lagkv.la

module_LTLIBRARIES += random.la
random_la_SOURCES = policies/random.c
random_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_random.la
libbuiltin_random_la_SOURCES = policies/random.c
libbuiltin_random_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_random
POLICIES_BUILT_IN += libbuiltin_random.la

module_LTLIBRARIES += refreekv.la
refreekv_la_SOURCES = $(refreekv_sources)
refreekv_la_LDFLAGS = $(MODULE_LINK)
refreekv_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_refreekv.la
libbuiltin_refreekv_la_SOURCES = $(refreekv_sources)
libbuiltin_refreekv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_refreekv
POLICIES_BUILT_IN += libbuiltin_refreekv.la

module_LTLIBRARIES += snapkv.la
snapkv_la_SOURCES = policies/snapkv.c
snapkv_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_snapkv.la
libbuiltin_snapkv_la_SOURCES = policies/snapkv.c
libbuiltin_snapkv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_snapkv
POLICIES_BUILT_IN += libbuiltin_snapkv.la

module_LTLIBRARIES += streamingllm.la
streamingllm_la_SOURCES = policies/streamingllm.c
streamingllm_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_streamingllm.la
libbuiltin_streamingllm_la_SOURCES = policies/streamingllm.c
libbuiltin_streamingllm_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_streamingllm
POLICIES_BUILT_IN += libbuiltin_streamingllm.la

module_LTLIBRARIES += topp.la
topp_la_SOURCES = policies/topp.c
topp_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_topp.la
libbuiltin_topp_la_SOURCES = policies/topp.c
libbuiltin_topp_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_topp
POLICIES_BUILT_IN += libbuiltin_topp.la
