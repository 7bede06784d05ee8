# SPDX-License-Identifier: Apache-2.0
# --with-ggml[=DIR]: ggml and libllama, from DIR (as installed by pip or `make install`)
# or from the compiler's own search path. If the loader would not find the libraries by
# itself, GGML_BUNDLE lists them, and they are installed with the engine.
AC_DEFUN([KV_WITH_GGML], [
	AC_ARG_WITH([ggml],
		[AS_HELP_STRING([--with-ggml@<:@=DIR@:>@],
			[build the ggml engine with ggml and libllama from DIR, which are then installed with it @<:@if found@:>@])],
		[], [with_ggml=guess])
	GGML_CFLAGS= GGML_LIBS= GGML_LDFLAGS= GGML_BUNDLE= kv_ggml_lib= have_ggml=no kv_ggml_report=no
	AS_IF([test "$with_ggml" != no], [
		AS_CASE([$with_ggml],
			[yes|guess], [],
			[
				kv_ggml_dir=`cd "$with_ggml" 2>/dev/null && pwd`
				AS_IF([test -z "$kv_ggml_dir"], [AC_MSG_ERROR([--with-ggml=$with_ggml: no such folder])])
				for kv_ggml_lib in "$kv_ggml_dir/lib" "$kv_ggml_dir/llama_cpp/lib" "$kv_ggml_dir/lib64" "$kv_ggml_dir/lib/$host_cpu-linux-gnu"; do
					test -e "$kv_ggml_lib/libllama.so" && break
				done
				GGML_CFLAGS="-isystem $kv_ggml_dir/include"
				GGML_LIBS="-L$kv_ggml_lib -Wl,-rpath,$kv_ggml_lib -Wl,-rpath-link,$kv_ggml_lib"
			])
		kv_saved_cppflags=$CPPFLAGS kv_saved_libs=$LIBS
		CPPFLAGS="$CPPFLAGS $GGML_CFLAGS"
		LIBS="$GGML_LIBS -lllama -lggml -lggml-base $LIBS"
		AC_MSG_CHECKING([for ggml and libllama])
		AC_LINK_IFELSE([AC_LANG_PROGRAM([[
			#include <ggml.h>
			#include <gguf.h>
			#include <ggml-backend.h>
			#include <llama.h>]], [[
			ggml_log_callback log;
			void *arg;

			llama_backend_init();
			llama_log_get(&log, &arg);
			return ggml_backend_dev_count() == 0 || gguf_get_data_offset(0) == 0;]])],
			[have_ggml=yes])
		GGML_LIBS="$GGML_LIBS -lllama -lggml -lggml-base"
		CPPFLAGS=$kv_saved_cppflags LIBS=$kv_saved_libs
		AC_MSG_RESULT([$have_ggml])
		AS_IF([test "$have_ggml" = yes && test -n "$kv_ggml_lib"], [
			AS_CASE([" $sys_lib_dlsearch_path_spec "],
				[*" $kv_ggml_lib "*], [],
				[KV_BUNDLE_GGML])
		])
		AS_IF([test "$have_ggml" = yes],
			[kv_ggml_report="yes (${kv_ggml_lib:-system})"],
			[test "$with_ggml" != guess],
			[AC_MSG_ERROR([--with-ggml: cannot link with ggml.h, llama.h and their libraries: see config.log])])
	])
	AM_CONDITIONAL([HAVE_GGML], [test "$have_ggml" = yes])
	AC_SUBST([have_ggml])
	AS_IF([test "$have_ggml" = yes], [AC_DEFINE([HAVE_GGML], [1], [The ggml engine is built])])
	AC_SUBST([GGML_CFLAGS])
	AC_SUBST([GGML_LIBS])
	AC_SUBST([GGML_LDFLAGS])
	AC_SUBST([GGML_BUNDLE])
	AM_CONDITIONAL([BUNDLE_GGML], [test -n "$GGML_BUNDLE"])
])

# The libraries in kv_ggml_lib that the engine needs, and those that they need in turn,
# under the names that the loader uses. The module finds them one folder above its
# own, by an RPATH, not a RUNPATH: an RPATH also applies when these libraries load each
# other, in case they were built without run paths.
AC_DEFUN([KV_BUNDLE_GGML], [
	kv_names= kv_next=
	for kv_name in libllama.so libggml.so libggml-base.so; do
		kv_soname=`$OBJDUMP -p "$kv_ggml_lib/$kv_name" | sed -n 's/^ *SONAME *//p'`
		kv_next="$kv_next ${kv_soname:-$kv_name}"
	done
	while test -n "$kv_next"; do
		kv_wanted=$kv_next kv_next=
		for kv_name in $kv_wanted; do
			AS_CASE([" $kv_names "], [*" $kv_name "*], [continue])
			test -e "$kv_ggml_lib/$kv_name" || continue
			kv_names="$kv_names $kv_name"
			GGML_BUNDLE="$GGML_BUNDLE $kv_ggml_lib/$kv_name"
			kv_next="$kv_next `$OBJDUMP -p "$kv_ggml_lib/$kv_name" | sed -n 's/^ *NEEDED *//p' | tr '\n' ' '`"
		done
	done
	GGML_LDFLAGS="-Wl,-rpath-link,$kv_ggml_lib -Wl,--disable-new-dtags -Wl,-rpath,'\$\$ORIGIN/..'"
])

# In the build tree they have the same place relative to the module as when installed.
AC_DEFUN([KV_LINK_GGML], [
	AC_CONFIG_COMMANDS([ggml-links], [
		rm -f libllama.so* libggml*.so*
		for kv_file in $kv_bundle; do
			$LN_S "$kv_file" "`AS_BASENAME(["$kv_file"])`"
		done
	], [kv_bundle='$GGML_BUNDLE' LN_S='$LN_S'])
])

# --with-model=FILE: the GGUF file that `kvmod run` uses by default; linked into the
# build tree and installed.
AC_DEFUN([KV_WITH_MODEL], [
	AC_ARG_WITH([model],
		[AS_HELP_STRING([--with-model=FILE], [the default model, a GGUF file])],
		[], [with_model=no])
	DEFAULT_MODEL= kv_model_report=no
	AS_CASE([$with_model],
		[no|yes], [],
		[
			DEFAULT_MODEL=`cd "\`AS_DIRNAME([$with_model])\`" 2>/dev/null && pwd`/`AS_BASENAME([$with_model])`
			AS_IF([test -r "$DEFAULT_MODEL"], [], [AC_MSG_ERROR([--with-model=$with_model: no such file])])
			kv_model_report=$DEFAULT_MODEL
		])
	AM_CONDITIONAL([HAVE_MODEL], [test -n "$DEFAULT_MODEL"])
	AC_SUBST([DEFAULT_MODEL])
])

# The default model of the build tree has the same name whatever FILE is called.
AC_DEFUN([KV_LINK_MODEL], [
	AC_CONFIG_COMMANDS([models], [
		AS_MKDIR_P([models])
		AS_IF([test -z "$kv_model"], [rm -f models/default.gguf],
			[test "$kv_model" -ef models/default.gguf], [],
			[rm -f models/default.gguf && $LN_S "$kv_model" models/default.gguf])
	], [kv_model='$DEFAULT_MODEL' LN_S='$LN_S'])
])
