#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs what several threads may do at once under ThreadSanitizer.
: "${srcdir:=.}"

# A variable of the build.
makefile() {
	sed -n "s/^$1 = //p" Makefile
}

if grep -q '^#define KVMOD_SANITIZED' config.h; then
	echo 'skipped: a build with other sanitizers'
	exit 77
fi
tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-threads.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
cc="$(makefile CC) -std=gnu11 -g -O1 -fsanitize=thread -pthread -I. -I$srcdir -I$srcdir/core/include"

echo 'int main(void) { return 0; }' >"$tmp/empty.c"
if ! { $cc -o "$tmp/empty" "$tmp/empty.c" && "$tmp/empty"; } >"$tmp/out" 2>&1; then
	echo "skipped: the compiler or this kernel has no ThreadSanitizer: $(cat "$tmp/out")"
	exit 77
fi
$cc -o "$tmp/races" "$srcdir/tests/races.c" "$srcdir/core/base/log.c" "$srcdir/core/base/names.c" \
	"$srcdir/core/base/memory.c" "$srcdir/core/base/threads.c" || {
	echo 'FAIL: races.c does not compile'
	exit 1
}
TSAN_OPTIONS='halt_on_error=1 exitcode=66' "$tmp/races" || {
	echo "FAIL: races: status $?"
	exit 1
}
