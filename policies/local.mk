# SPDX-License-Identifier: Apache-2.0
# One module per policy, from one source (refreekv and duo have several) that needs only the
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
duo_sources = policies/duo.c policies/duo_table.c policies/duo_table.h

module_LTLIBRARIES += adakv.la
adakv_la_SOURCES = policies/adakv.c
adakv_la_LDFLAGS = $(MODULE_LINK)
adakv_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_adakv.la
libbuiltin_adakv_la_SOURCES = policies/adakv.c
libbuiltin_adakv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_adakv
POLICIES_BUILT_IN += libbuiltin_adakv.la

module_LTLIBRARIES += duo.la
duo_la_SOURCES = $(duo_sources)
duo_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_duo.la
libbuiltin_duo_la_SOURCES = $(duo_sources)
libbuiltin_duo_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_duo
POLICIES_BUILT_IN += libbuiltin_duo.la

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
