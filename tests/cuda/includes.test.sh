#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The folders of the CUDA code include only folders below them (see kernels/cuda/NOTES.md).
cd "${srcdir:-.}" || exit 1

# The folders that a folder may include, besides itself.
below() {
	case $1 in
	kernels/cuda/base) ;;
	kernels/cuda/attention | kernels/cuda/columns | kernels/cuda/gather | kernels/cuda/norms | kernels/cuda/read)
		echo kernels/cuda/base
		;;
	kernels/cuda/attend | kernels/cuda/refreekv) echo kernels/cuda/base kernels/cuda/attention ;;
	policies/cuda) echo policies "$kernels" ;;
	plugins/cuda) echo policies/cuda "$kernels" . ;;
	*) echo "FAIL $1: this test does not know what it may include" >&2 && return 1 ;;
	esac
}

failed=0
kernels=$(echo kernels/cuda/*/)
kernels=$(echo "$kernels" | sed 's|/ | |g; s|/$||')
n=0
for folder in $kernels policies/cuda plugins/cuda; do
	allowed=$(below "$folder") || failed=1
	allowed=" $folder $allowed "
	for file in "$folder"/*.*; do
		for header in $(sed -n 's/^#include "\(.*\)".*/\1/p' "$file"); do
			n=$((n + 1))
			case $allowed in
			*" $(dirname "$header") "*) ;;
			*) echo "FAIL $file includes $header: expected a header of$allowed" && failed=1 ;;
			esac
		done
	done
done
[ "$n" -gt 80 ] || { echo "FAIL only $n includes found" && failed=1; }
# The module's file alone knows both the device and the policies.
for file in $(grep -l '"policies/' plugins/cuda/*); do
	[ "$file" = plugins/cuda/module.c ] || { echo "FAIL $file includes a policy" && failed=1; }
done
exit $failed
