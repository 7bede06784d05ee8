# SPDX-License-Identifier: Apache-2.0
# KV_TRY_CFLAG(VARIABLE, FLAG) - appends FLAG to VARIABLE if the compiler accepts it.
AC_DEFUN([KV_TRY_CFLAG], [
	kv_saved_cflags=$CFLAGS
	CFLAGS="$CFLAGS -Werror $2"
	AC_MSG_CHECKING([whether $CC takes $2])
	AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
		[AC_MSG_RESULT([yes]); $1="$$1 $2"], [AC_MSG_RESULT([no])])
	CFLAGS=$kv_saved_cflags
])

# KV_TRY_LDFLAG(VARIABLE, FLAG) - the same for the linker.
AC_DEFUN([KV_TRY_LDFLAG], [
	kv_saved_ldflags=$LDFLAGS
	LDFLAGS="$LDFLAGS $2"
	AC_MSG_CHECKING([whether the linker takes $2])
	AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])],
		[AC_MSG_RESULT([yes]); $1="$$1 $2"], [AC_MSG_RESULT([no])])
	LDFLAGS=$kv_saved_ldflags
])

AC_DEFUN([KV_PICKY_WARNINGS], [
	WARN_CFLAGS=
	m4_foreach_w([flag], [-Wall -Wextra -Wshadow -Wstrict-prototypes
		-Wmissing-prototypes -Wold-style-definition -Wvla -Wpointer-arith
		-Wwrite-strings -Wcast-qual -Wundef -Wformat=2 -Wlogical-op
		-Wduplicated-cond -Wnull-dereference],
		[KV_TRY_CFLAG([WARN_CFLAGS], [flag])])
	AC_ARG_ENABLE([werror],
		[AS_HELP_STRING([--enable-werror], [treat warnings as errors])],
		[AS_IF([test "$enableval" = yes], [WARN_CFLAGS="$WARN_CFLAGS -Werror"])])
	AC_SUBST([WARN_CFLAGS])
])

AC_DEFUN([KV_HARDENING], [
	HARDEN_CFLAGS= HARDEN_LDFLAGS=
	m4_foreach_w([flag], [-fstack-protector-strong -fstack-clash-protection
		-fcf-protection],
		[KV_TRY_CFLAG([HARDEN_CFLAGS], [flag])])
	KV_TRY_LDFLAG([HARDEN_LDFLAGS], [[-Wl,-z,relro]])
	KV_TRY_LDFLAG([HARDEN_LDFLAGS], [[-Wl,-z,now]])
	KV_TRY_LDFLAG([HARDEN_LDFLAGS], [[-Wl,-z,noexecstack]])
	AC_SUBST([HARDEN_CFLAGS])
	AC_SUBST([HARDEN_LDFLAGS])
])

# --enable-sanitizers=address,undefined builds all of kvmod's own code with these.
AC_DEFUN([KV_SANITIZERS], [
	AC_ARG_ENABLE([sanitizers],
		[AS_HELP_STRING([--enable-sanitizers@<:@=LIST@:>@],
			[build with sanitizers (default list: address,undefined)])],
		[], [enable_sanitizers=no])
	AS_CASE([$enable_sanitizers],
		[no], [kv_sanitizers=none],
		[yes], [kv_sanitizers=address,undefined],
		[kv_sanitizers=$enable_sanitizers])
	SANITIZE_FLAGS=
	AS_IF([test "$kv_sanitizers" != none], [
		SANITIZE_FLAGS="-fsanitize=$kv_sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer"
		AC_DEFINE([KVMOD_SANITIZED], [1], [Built with sanitizers])
	])
	AM_CONDITIONAL([SANITIZED], [test "$kv_sanitizers" != none])
	AC_SUBST([SANITIZE_FLAGS])
])
