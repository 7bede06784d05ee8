# SPDX-License-Identifier: Apache-2.0
# How the loader finds the installed libkvmod. COMMAND_RPATH is for the command: it
# points to the command's own tree, so that the tree can be moved or staged, and is empty
# if the loader searches libdir anyway. LDCONFIG is for other programs: the command that
# makes libdir known to the loader, or `:` if the loader never searches libdir.
AC_DEFUN([KV_RPATH], [
	kv_prefix=$prefix kv_exec_prefix=$exec_prefix
	AS_IF([test "$prefix" = NONE], [prefix=$ac_default_prefix])
	AS_IF([test "$exec_prefix" = NONE], [exec_prefix=$prefix])
	eval "kv_libdir=\"$libdir\" kv_bindir=\"$bindir\""
	eval "kv_libdir=\"$kv_libdir\" kv_bindir=\"$kv_bindir\""
	kv_libdir=`AS_ECHO(["$kv_libdir"]) | tr -s /` kv_bindir=`AS_ECHO(["$kv_bindir"]) | tr -s /`
	prefix=$kv_prefix exec_prefix=$kv_exec_prefix

	AS_CASE([$kv_libdir],
		[/lib|/lib32|/lib64|/usr/lib|/usr/lib32|/usr/lib64|/lib/*-linux-*|/usr/lib/*-linux-*],
		[COMMAND_RPATH=],
		[
			kv_up= kv_common=$kv_bindir
			while case $kv_libdir/ in #(
				"$kv_common"/*) false ;;
			esac do
				kv_up=../$kv_up kv_common=${kv_common%/*}
			done
			kv_rest=${kv_libdir#"$kv_common"}
			COMMAND_RPATH="-Wl,-rpath,'\$\$ORIGIN/$kv_up${kv_rest#/}'"
		])
	AC_SUBST([COMMAND_RPATH])

	AC_PATH_PROG([LDCONFIG], [ldconfig], [:], [$PATH$PATH_SEPARATOR/sbin$PATH_SEPARATOR/usr/sbin])
	AS_CASE([" $sys_lib_dlsearch_path_spec "],
		[*" $kv_libdir "*], [],
		[LDCONFIG=:])
])
