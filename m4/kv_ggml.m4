# SPDX-License-Identifier: Apache-2.0
# --with-ggml[=DIR]: ggml and libllama, from DIR (as pip or `make install` leave
# them) or from where the compiler looks.
AC_DEFUN([KV_WITH_GGML], [
	AC_ARG_WITH([ggml],
		[AS_HELP_STRING([--with-ggml@<:@=DIR@:>@],
			[build the ggml engine with ggml and libllama from DIR @<:@if found@:>@])],
		[], [with_ggml=guess])
	GGML_CFLAGS= GGML_LIBS= have_ggml=no kv_ggml_report=no
	AS_IF([test "$with_ggml" != no], [
		AS_CASE([$with_ggml],
			[yes|guess], [kv_ggml_lib=],
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
			llama_backend_init();
			return ggml_backend_dev_count() == 0 || gguf_get_data_offset(0) == 0;]])],
			[have_ggml=yes])
		GGML_LIBS="$GGML_LIBS -lllama -lggml -lggml-base"
		CPPFLAGS=$kv_saved_cppflags LIBS=$kv_saved_libs
		AC_MSG_RESULT([$have_ggml])
		AS_IF([test "$have_ggml" = yes],
			[kv_ggml_report="yes (${kv_ggml_lib:-system})"],
			[test "$with_ggml" != guess],
			[AC_MSG_ERROR([--with-ggml was asked for, but ggml.h, llama.h and their libraries do not link: see config.log])])
	])
	AM_CONDITIONAL([HAVE_GGML], [test "$have_ggml" = yes])
	AC_SUBST([have_ggml])
	AS_IF([test "$have_ggml" = yes], [AC_DEFINE([HAVE_GGML], [1], [The ggml engine is built])])
	AC_SUBST([GGML_CFLAGS])
	AC_SUBST([GGML_LIBS])
])

# --with-model=FILE: the GGUF that `kvmod run` takes when none is named; linked
# into the build tree and installed.
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

# The build tree's default model, whatever its file is called.
AC_DEFUN([KV_LINK_MODEL], [
	AC_CONFIG_COMMANDS([models], [
		AS_MKDIR_P([models])
		AS_IF([test -z "$kv_model"], [rm -f models/default.gguf],
			[test "$kv_model" -ef models/default.gguf], [],
			[rm -f models/default.gguf && $LN_S "$kv_model" models/default.gguf])
	], [kv_model='$DEFAULT_MODEL' LN_S='$LN_S'])
])
