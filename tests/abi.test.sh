#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# libkvmod.so exports what kvmod.h declares, all of it and nothing else, each
# symbol under a version.
set -eu
srcdir=${srcdir:-.}
lib=.libs/libkvmod.so
header=$srcdir/core/include/kvmod/kvmod.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! test -f "$lib"; then
	echo "SKIP: no shared library was built"
	exit 77
fi
# A declaration has its name before "(" on a line that does not start with a blank
# and is no typedef, comment or macro.
grep -E '^[a-z].*\bkvmod_[a-z0-9_]+\(' "$header" | grep -Ev '^(typedef|static)' |
	sed -E 's/.*\b(kvmod_[a-z0-9_]+)\(.*/\1/' | sort -u > "$work/declared"
nm -D --defined-only "$lib" | awk '$2 != "A" { print $3 }' > "$work/versioned"
sed 's/@.*//' "$work/versioned" | sort -u > "$work/exported"

fail=0
if ! diff -u "$work/declared" "$work/exported"; then
	echo "FAIL: kvmod.h and $lib differ (-: only declared, +: only exported)"
	fail=1
fi
if grep -v '@@KVMOD_' "$work/versioned"; then
	echo "FAIL: these symbols have no version"
	fail=1
fi
test "$(wc -l < "$work/exported")" -ge 50 || { echo "FAIL: hardly any symbol was found"; fail=1; }
exit $fail
