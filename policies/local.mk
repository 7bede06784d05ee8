# SPDX-License-Identifier: Apache-2.0
# One module per policy, from one source (refreekv has several) that needs only the
# installed headers.
refreekv_sources = \
	policies/refreekv.c \
	policies/refreekv.h \
	policies/refreekv_attention.c \
	policies/refreekv_params.c \
	policies/refreekv_params.h \
	policies/refreekv_position.c

module_LTLIBRARIES += adakv.la random.la refreekv.la snapkv.la streamingllm.la topp.la
adakv_la_SOURCES = policies/adakv.c
adakv_la_LDFLAGS = $(MODULE_LINK)
adakv_la_LIBADD = $(LIBM)
random_la_SOURCES = policies/random.c
random_la_LDFLAGS = $(MODULE_LINK)
refreekv_la_SOURCES = $(refreekv_sources)
refreekv_la_LDFLAGS = $(MODULE_LINK)
refreekv_la_LIBADD = $(LIBM)
snapkv_la_SOURCES = policies/snapkv.c
snapkv_la_LDFLAGS = $(MODULE_LINK)
streamingllm_la_SOURCES = policies/streamingllm.c
streamingllm_la_LDFLAGS = $(MODULE_LINK)
topp_la_SOURCES = policies/topp.c
topp_la_LDFLAGS = $(MODULE_LINK)

# The same policies linked statically, each descriptor under another name: tests run
# every policy both ways.
check_LTLIBRARIES += libbuiltin_adakv.la libbuiltin_random.la libbuiltin_refreekv.la \
	libbuiltin_snapkv.la libbuiltin_streamingllm.la libbuiltin_topp.la
libbuiltin_adakv_la_SOURCES = policies/adakv.c
libbuiltin_adakv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_adakv
libbuiltin_random_la_SOURCES = policies/random.c
libbuiltin_random_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_random
libbuiltin_refreekv_la_SOURCES = $(refreekv_sources)
libbuiltin_refreekv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_refreekv
libbuiltin_snapkv_la_SOURCES = policies/snapkv.c
libbuiltin_snapkv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_snapkv
libbuiltin_streamingllm_la_SOURCES = policies/streamingllm.c
libbuiltin_streamingllm_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_streamingllm
libbuiltin_topp_la_SOURCES = policies/topp.c
libbuiltin_topp_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_topp
