# SPDX-License-Identifier: Apache-2.0
# Modules for the loader's tests, which copy them where they need them. They are built
# like other modules, but never installed. Those without a descriptor, or with an
# undefined symbol, are linked without the checks against that.
TEST_MODULE_LINK = $(MODULE_LINK) -rpath /nowhere
LOOSE_MODULE_LINK = $(AM_LDFLAGS) -module -avoid-version -shared -rpath /nowhere

if HAVE_CHECK
check_LTLIBRARIES += \
	tests/modules/good.la \
	tests/modules/other.la \
	tests/modules/accel.la \
	tests/modules/nosection.la \
	tests/modules/nodescriptor.la \
	tests/modules/magic.la \
	tests/modules/abimajor.la \
	tests/modules/abiminor.la \
	tests/modules/nolicense.la \
	tests/modules/badname.la \
	tests/modules/initfails.la \
	tests/modules/initsilent.la \
	tests/modules/initcrash.la \
	tests/modules/crash.la \
	tests/modules/hang.la \
	tests/modules/chatter.la \
	tests/modules/mute.la \
	tests/modules/exits.la \
	tests/modules/leaves.la \
	tests/modules/daemon.la \
	tests/modules/failing.la \
	tests/modules/badplan.la \
	tests/modules/unsaid.la \
	tests/modules/elsewhere.la \
	tests/modules/later.la \
	tests/modules/gpu.la \
	tests/modules/npu.la \
	tests/modules/counts.la \
	tests/modules/fewer.la \
	tests/modules/libdep.la \
	tests/modules/depends.la \
	tests/modules/shadow.la \
	tests/modules/undefined.la \
	tests/modules/constructs.la \
	tests/modules/resident.la \
	tests/modules/probed.la \
	tests/modules/older.la \
	tests/modules/policies.la \
	tests/modules/taken.la \
	tests/modules/wants.la
endif

tests_modules_good_la_SOURCES = tests/modules/module.c
tests_modules_good_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_other_la_SOURCES = tests/modules/module.c
tests_modules_other_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"other"'
tests_modules_other_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_accel_la_SOURCES = tests/modules/module.c
tests_modules_accel_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"accel"' -DTEST_DEVICES='"cuda"' \
	-DTEST_RUNS_ON='"cuda"'
tests_modules_accel_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_nosection_la_SOURCES = tests/modules/module.c
tests_modules_nosection_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NO_MODULE -DTEST_NO_SECTION
tests_modules_nosection_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_nodescriptor_la_SOURCES = tests/modules/module.c
tests_modules_nodescriptor_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NO_MODULE
tests_modules_nodescriptor_la_LDFLAGS = $(LOOSE_MODULE_LINK)
tests_modules_magic_la_SOURCES = tests/modules/module.c
tests_modules_magic_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_MAGIC=0x1234u
tests_modules_magic_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_abimajor_la_SOURCES = tests/modules/module.c
tests_modules_abimajor_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_ABI_MAJOR=1
tests_modules_abimajor_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_abiminor_la_SOURCES = tests/modules/module.c
tests_modules_abiminor_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_ABI_MINOR=99
tests_modules_abiminor_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_nolicense_la_SOURCES = tests/modules/module.c
tests_modules_nolicense_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_LICENSE='""'
tests_modules_nolicense_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_badname_la_SOURCES = tests/modules/module.c
tests_modules_badname_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"bad name"'
tests_modules_badname_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_initfails_la_SOURCES = tests/modules/module.c
tests_modules_initfails_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"initfails"' -DTEST_POLICY=initfails -DTEST_INIT_FAILS
tests_modules_initfails_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_initsilent_la_SOURCES = tests/modules/module.c
tests_modules_initsilent_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"initsilent"' -DTEST_POLICY=initsilent -DTEST_INIT_SILENT
tests_modules_initsilent_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_initcrash_la_SOURCES = tests/modules/module.c
tests_modules_initcrash_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"initcrash"' -DTEST_POLICY=initcrash -DTEST_INIT_CRASH
tests_modules_initcrash_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_crash_la_SOURCES = tests/modules/module.c
tests_modules_crash_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"crash"' -DTEST_POLICY=crash -DTEST_CRASH
tests_modules_crash_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_mute_la_SOURCES = tests/modules/module.c
tests_modules_mute_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"mute"' -DTEST_POLICY=mute \
	-DTEST_MUTE -DTEST_HANG
tests_modules_mute_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_chatter_la_SOURCES = tests/modules/module.c
tests_modules_chatter_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"chatter"' -DTEST_POLICY=chatter -DTEST_CHATTER
tests_modules_chatter_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_hang_la_SOURCES = tests/modules/module.c
tests_modules_hang_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"hang"' -DTEST_POLICY=hang -DTEST_HANG
tests_modules_hang_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_exits_la_SOURCES = tests/modules/module.c
tests_modules_exits_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"exits"' -DTEST_POLICY=exits -DTEST_EXIT
tests_modules_exits_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_leaves_la_SOURCES = tests/modules/module.c
tests_modules_leaves_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"leaves"' -DTEST_POLICY=leaves -DTEST_LEAVES
tests_modules_leaves_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_daemon_la_SOURCES = tests/modules/module.c
tests_modules_daemon_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"daemon"' -DTEST_POLICY=daemon \
	-DTEST_LEAVES -DTEST_DAEMON
tests_modules_daemon_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_failing_la_SOURCES = tests/modules/module.c
tests_modules_failing_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"failing"' -DTEST_POLICY=failing -DTEST_FAIL
tests_modules_failing_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_badplan_la_SOURCES = tests/modules/module.c
tests_modules_badplan_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"badplan"' -DTEST_POLICY=badplan -DTEST_BAD_PLAN
tests_modules_badplan_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_unsaid_la_SOURCES = tests/modules/module.c
tests_modules_unsaid_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"unsaid"' -DTEST_UNSAID
tests_modules_unsaid_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_gpu_la_SOURCES = tests/madeup_gpu.c tests/madeup_gpu.h
tests_modules_gpu_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_gpu_la_LIBADD = libkernels.la $(LIBM)
tests_modules_npu_la_SOURCES = tests/madeup_gpu.c tests/madeup_gpu.h
tests_modules_npu_la_CPPFLAGS = $(AM_CPPFLAGS) -DMADEUP_DEVICE=npu
tests_modules_npu_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_npu_la_LIBADD = libkernels.la $(LIBM)
# Its table claims more parameters than its section has.
tests_modules_counts_la_SOURCES = tests/modules/module.c
tests_modules_counts_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"counts"' -DTEST_POLICY=counts \
	-DTEST_N_PARAMS=1000
tests_modules_counts_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_fewer_la_SOURCES = tests/modules/module.c
tests_modules_fewer_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"fewer"' -DTEST_POLICY=fewer \
	-DTEST_N_PARAMS=2
tests_modules_fewer_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_elsewhere_la_SOURCES = tests/modules/module.c
tests_modules_elsewhere_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"elsewhere"' -DTEST_RUNS_ON='"cpu cuda"'
tests_modules_elsewhere_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_later_la_SOURCES = tests/modules/module.c
tests_modules_later_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"later"' -DTEST_POLICY=later \
	-DTEST_DEVICES='"cpu npu"' -DTEST_RUNS_ON='"cpu npu"'
tests_modules_later_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_undefined_la_SOURCES = tests/modules/module.c
tests_modules_undefined_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"undefined"' -DTEST_POLICY=undefined -DTEST_UNDEFINED
tests_modules_undefined_la_LDFLAGS = $(LOOSE_MODULE_LINK)
tests_modules_constructs_la_SOURCES = tests/modules/module.c
tests_modules_constructs_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"constructs"' \
	-DTEST_POLICY=constructs -DTEST_CONSTRUCTOR
tests_modules_constructs_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_wants_la_SOURCES = tests/modules/module.c
tests_modules_wants_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"wants"' -DTEST_POLICY=wants \
	-DTEST_CONSTRUCTOR -DTEST_USES='"kvmod.nosuch/9"'
tests_modules_wants_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_resident_la_SOURCES = tests/modules/module.c
tests_modules_resident_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"resident"' -DTEST_POLICY=resident -DTEST_FLAGS=KVMOD_MODULE_RESIDENT
tests_modules_resident_la_LDFLAGS = $(TEST_MODULE_LINK)

# The module has no kvmod_module; the library that it is linked with has one.
tests_modules_libdep_la_SOURCES = tests/modules/module.c
tests_modules_libdep_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_ANCHOR
# Two descriptors in one scope are intended here: no report.
tests_modules_libdep_la_CFLAGS = $(AM_CFLAGS) -fno-sanitize=all
tests_modules_libdep_la_LDFLAGS = $(AM_LDFLAGS) -avoid-version -shared -rpath /nowhere
tests_modules_depends_la_SOURCES = tests/modules/module.c
tests_modules_depends_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NO_MODULE -DTEST_DEPENDS
tests_modules_depends_la_LDFLAGS = $(LOOSE_MODULE_LINK)
tests_modules_depends_la_LIBADD = tests/modules/libdep.la
# The module has a descriptor until the test hides it.
tests_modules_shadow_la_SOURCES = tests/modules/module.c
tests_modules_shadow_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_SHADOW
tests_modules_shadow_la_LDFLAGS = $(LOOSE_MODULE_LINK) -Wl,--hash-style=gnu
tests_modules_shadow_la_LIBADD = tests/modules/libdep.la

# Engines for tests of `kvmod check`, and policies for them.
tests_modules_probed_la_SOURCES = tests/modules/engine.c
tests_modules_probed_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_ENGINE=probed
tests_modules_probed_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_older_la_SOURCES = tests/modules/engine.c
tests_modules_older_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_ENGINE=older -DTEST_OLD
tests_modules_older_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_policies_la_SOURCES = tests/modules/engine.c
tests_modules_policies_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"policies"' -DTEST_NO_SHARED
tests_modules_policies_la_LDFLAGS = $(TEST_MODULE_LINK)
tests_modules_taken_la_SOURCES = tests/modules/engine.c
tests_modules_taken_la_CPPFLAGS = $(AM_CPPFLAGS) -DTEST_NAME='"taken"'
tests_modules_taken_la_LDFLAGS = $(TEST_MODULE_LINK)
