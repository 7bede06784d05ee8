# SPDX-License-Identifier: Apache-2.0
# --with-cuda[=DIR]: builds the CUDA code with nvcc of the toolkit in DIR, else of the one
# in PATH or /usr/local/cuda. The runtime is linked statically, so that a machine
# without CUDA can load and inspect the modules.
AC_DEFUN([KV_WITH_CUDA], [
	AC_ARG_WITH([cuda],
		[AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
			[build the cuda module with the CUDA Toolkit in DIR @<:@if nvcc is found@:>@])],
		[], [with_cuda=guess])
	AC_ARG_WITH([cuda-arch],
		[AS_HELP_STRING([--with-cuda-arch=LIST],
			[GPU architectures, such as 80,90 @<:@of 80,90,100,120 those that nvcc has@:>@; PTX of the newest goes along, which later GPUs compile])],
		[], [with_cuda_arch=default])
	AC_ARG_VAR([NVCC], [CUDA compiler])
	AC_ARG_VAR([NVCCFLAGS], [CUDA compiler flags])
	have_cuda=no kv_cuda_report=no CUDA_VERSION= CUDA_CFLAGS= CUDA_LIBS= NVCC_GENCODE= CUDA_BUILT_FOR=
	AS_CASE([$with_cuda],
		[no], [NVCC=],
		[yes|guess], [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])],
		[AC_PATH_PROG([NVCC], [nvcc], [], [$with_cuda/bin])])
	AS_IF([test -n "$NVCC"], [KV_CUDA_TOOLKIT])
	AS_IF([test "$have_cuda" = no && test "$with_cuda" != no && test "$with_cuda" != guess],
		[AC_MSG_ERROR([--with-cuda=$with_cuda: found no nvcc that works: see config.log])])
	AS_IF([test "$have_cuda" = yes], [
		KV_CUDA_ARCH
		AC_DEFINE([HAVE_CUDA], [1], [The cuda module is built])
		AC_DEFINE_UNQUOTED([CUDA_TOOLKIT], ["CUDA $CUDA_VERSION"], [What compiled the cuda module])
		AC_DEFINE_UNQUOTED([CUDA_BUILT_FOR], ["$CUDA_BUILT_FOR"], [What the cuda module holds code for])
		kv_cuda_report="yes ($CUDA_BUILT_FOR)"
	])
	AM_CONDITIONAL([HAVE_CUDA], [test "$have_cuda" = yes])
	AC_SUBST([have_cuda])
	AC_SUBST([NVCC_GENCODE])
	AC_SUBST([CUDA_CFLAGS])
	AC_SUBST([CUDA_LIBS])
])

# Does nvcc work, and is there a runtime to link? Because nvcc may be a link in /usr/bin,
# nvcc itself is asked where the toolkit is.
AC_DEFUN([KV_CUDA_TOOLKIT], [
	AC_MSG_CHECKING([for the CUDA Toolkit of $NVCC])
	kv_cuda_dir=`$NVCC --dryrun -x cu -c /dev/null -o /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p'`
	CUDA_VERSION=`$NVCC --version 2>/dev/null | sed -n 's/.*release \(@<:@0-9.@:>@*\),.*/\1/p'`
	for kv_cuda_lib in "$kv_cuda_dir/lib64" "$kv_cuda_dir/targets/$host_cpu-linux/lib" "$kv_cuda_dir/lib/$host_cpu-linux-gnu" "$kv_cuda_dir/lib"; do
		test -e "$kv_cuda_lib/libcudart_static.a" && break
	done
	for kv_cuda_include in "$kv_cuda_dir/include" "$kv_cuda_dir/targets/$host_cpu-linux/include" /usr/include; do
		test -e "$kv_cuda_include/cuda_runtime_api.h" && break
	done
	CUDA_CFLAGS="-isystem $kv_cuda_include"
	CUDA_LIBS="-L$kv_cuda_lib -lcudart_static -lrt -lpthread -ldl"
	kv_saved_cppflags=$CPPFLAGS kv_saved_libs=$LIBS
	CPPFLAGS="$CPPFLAGS $CUDA_CFLAGS" LIBS="$CUDA_LIBS $LIBS"
	AC_LINK_IFELSE([AC_LANG_PROGRAM([[@%:@include <cuda_runtime_api.h>]],
		[[int n; return cudaGetDeviceCount(&n);]])], [have_cuda=yes])
	CPPFLAGS=$kv_saved_cppflags LIBS=$kv_saved_libs
	AC_MSG_RESULT([$have_cuda${CUDA_VERSION:+ ($CUDA_VERSION)}])
])

# Machine code for each architecture, and PTX for the newest, which drivers compile for
# later GPUs. One architecture of a generation is enough: code for sm_80 runs on all 8.x.
AC_DEFUN([KV_CUDA_ARCH], [
	kv_archs=
	kv_known=`$NVCC --list-gpu-code 2>/dev/null | sed -n 's/^sm_\(@<:@0-9@:>@*\)$/\1/p' | tr '\n' ' '`
	AS_CASE([$with_cuda_arch],
		[default|yes|no], [
			for kv_arch in $kv_known; do
				AS_CASE([$kv_arch], [80|90|100|120], [kv_archs="$kv_archs $kv_arch"])
			done],
		[kv_archs=`echo "$with_cuda_arch" | tr ',;' '  ' | sed 's/sm_//g'`])
	for kv_arch in $kv_archs; do
		AS_IF([echo "" $kv_known "" | grep -q " $kv_arch "], [],
			[AC_MSG_ERROR([--with-cuda-arch=$with_cuda_arch: nvcc $CUDA_VERSION has no sm_$kv_arch; it has $kv_known])])
		AS_IF([test "$kv_arch" -lt 80],
			[AC_MSG_ERROR([--with-cuda-arch=$with_cuda_arch: the kernels need sm_80 or later])])
		NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$kv_arch,code=sm_$kv_arch"
		CUDA_BUILT_FOR="$CUDA_BUILT_FOR sm_$kv_arch"
	done
	NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$kv_arch,code=compute_$kv_arch"
	CUDA_BUILT_FOR="CUDA $CUDA_VERSION:$CUDA_BUILT_FOR compute_$kv_arch"
])
