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

module_LTLIBRARIES += h2o.la
h2o_la_SOURCES = policies/h2o.c
h2o_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_h2o.la
libbuiltin_h2o_la_SOURCES = policies/h2o.c
libbuiltin_h2o_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_h2o
POLICIES_BUILT_IN += libbuiltin_h2o.la

module_LTLIBRARIES += knorm.la
knorm_la_SOURCES = policies/knorm.c
knorm_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_knorm.la
libbuiltin_knorm_la_SOURCES = policies/knorm.c
libbuiltin_knorm_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_knorm
POLICIES_BUILT_IN += libbuiltin_knorm.la
module_LTLIBRARIES += kvzip.la
kvzip_la_SOURCES = policies/kvzip.c policies/repeat.h
kvzip_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_kvzip.la
libbuiltin_kvzip_la_SOURCES = policies/kvzip.c policies/repeat.h
libbuiltin_kvzip_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_kvzip
POLICIES_BUILT_IN += libbuiltin_kvzip.la
module_LTLIBRARIES += cake.la
cake_la_SOURCES = policies/cake.c
cake_la_LDFLAGS = $(MODULE_LINK)
cake_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_cake.la
libbuiltin_cake_la_SOURCES = policies/cake.c
libbuiltin_cake_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_cake
POLICIES_BUILT_IN += libbuiltin_cake.la

module_LTLIBRARIES += criticalkv.la
criticalkv_la_SOURCES = policies/criticalkv.c
criticalkv_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_criticalkv.la
libbuiltin_criticalkv_la_SOURCES = policies/criticalkv.c
libbuiltin_criticalkv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_criticalkv
POLICIES_BUILT_IN += libbuiltin_criticalkv.la

module_LTLIBRARIES += defensivekv.la
defensivekv_la_SOURCES = policies/defensivekv.c
defensivekv_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_defensivekv.la
libbuiltin_defensivekv_la_SOURCES = policies/defensivekv.c
libbuiltin_defensivekv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_defensivekv
POLICIES_BUILT_IN += libbuiltin_defensivekv.la

module_LTLIBRARIES += pyramidkv.la
pyramidkv_la_SOURCES = policies/pyramidkv.c
pyramidkv_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_pyramidkv.la
libbuiltin_pyramidkv_la_SOURCES = policies/pyramidkv.c
libbuiltin_pyramidkv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_pyramidkv
POLICIES_BUILT_IN += libbuiltin_pyramidkv.la
module_LTLIBRARIES += contribution.la
contribution_la_SOURCES = policies/contribution.c policies/contribution.h
contribution_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_contribution.la
libbuiltin_contribution_la_SOURCES = policies/contribution.c policies/contribution.h
libbuiltin_contribution_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_contribution
POLICIES_BUILT_IN += libbuiltin_contribution.la
module_LTLIBRARIES += replay.la
replay_la_SOURCES = policies/replay.c policies/contribution.h policies/repeat.h
replay_la_LDFLAGS = $(MODULE_LINK)
replay_la_LIBADD = $(LIBM)
check_LTLIBRARIES += libbuiltin_replay.la
libbuiltin_replay_la_SOURCES = policies/replay.c policies/contribution.h policies/repeat.h
libbuiltin_replay_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_replay
POLICIES_BUILT_IN += libbuiltin_replay.la

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

module_LTLIBRARIES += rkv.la
rkv_la_SOURCES = policies/rkv.c
rkv_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_rkv.la
libbuiltin_rkv_la_SOURCES = policies/rkv.c
libbuiltin_rkv_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_rkv
POLICIES_BUILT_IN += libbuiltin_rkv.la

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

module_LTLIBRARIES += tova.la
tova_la_SOURCES = policies/tova.c
tova_la_LDFLAGS = $(MODULE_LINK)
check_LTLIBRARIES += libbuiltin_tova.la
libbuiltin_tova_la_SOURCES = policies/tova.c
libbuiltin_tova_la_CPPFLAGS = $(AM_CPPFLAGS) -DKVMOD_MODULE_SYMBOL=kvmod_module_tova
POLICIES_BUILT_IN += libbuiltin_tova.la
