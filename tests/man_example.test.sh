#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The examples in the manual pages: taken out of the pages, compiled, and run.
: "${srcdir:=.}"
status=0

fail() {
	echo "FAIL: $*"
	status=1
}

# A variable of the build.
makefile() {
	sed -n "s/^$1 = //p" Makefile
}

# example PAGE FILE - the text of PAGE between the comments BEGIN FILE and END FILE.
example() {
	sed -n "/^\.\\\\\" BEGIN $2\$/,/^\.\\\\\" END $2\$/p" "$srcdir/man/$1" |
		sed '/^\./d; s/^\\&//; s/\\e/\\/g' >"$tmp/$2"
	[ -s "$tmp/$2" ] || fail "no example $2 in $1"
}

# expect WORDS FILE - a line of the file begins with them.
expect() {
	grep -q "^$1" "$2" || fail "expected '$1', got: $(cat "$2")"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-man.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
# The user's configuration does not matter here.
KVMOD_CONF=/dev/null
export KVMOD_CONF
cc="$(makefile CC) -std=gnu11 -O2 -Wall -Wextra -Wshadow -Werror -I$srcdir/core/include"

# --- kvmod-module(7): a policy -----------------------------------------------------

example kvmod-module.7 knorm.c
[ "$(wc -l <"$tmp/knorm.c")" -le 25 ] || fail 'knorm.c has more than 25 lines'
$cc -fPIC -shared -fvisibility=hidden -Wl,-z,defs -o "$tmp/knorm.so" "$tmp/knorm.c" ||
	fail 'knorm.c does not compile'
./kvmod selftest "$tmp/knorm.so" --vectors "$srcdir/tests/golden/knorm.txt" >"$tmp/out" 2>&1 ||
	fail "selftest: $(cat "$tmp/out")"
expect 'golden vectors: 4 of 4' "$tmp/out"

# --- libkvmod(3): a host with its own cache ------------------------------------------

example libkvmod.3 decide.c
sanitize=$(makefile SANITIZE_FLAGS)
$cc $sanitize -c -o "$tmp/decide.o" "$tmp/decide.c" || fail 'decide.c does not compile'
./libtool --quiet --mode=link $cc $sanitize -o "$tmp/decide" "$tmp/decide.o" libkvmod.la ||
	fail 'decide.c does not link'

"$tmp/decide" snapkv 'policy snapkv.budget=25%' >"$tmp/out" 2>&1 || fail 'decide snapkv'
expect 'layer 0: 128 128' "$tmp/out"
expect 'budget: 0.250' "$tmp/out"

# Both examples together: layers 0 and 1 stay whole.
"$tmp/decide" knorm "kvmod.module_path=$tmp" 'policy knorm.budget=100' >"$tmp/out" 2>&1 ||
	fail 'decide knorm'
expect 'layer 1: 512 512' "$tmp/out"
expect 'layer 2: 100 100' "$tmp/out"

"$tmp/decide" nosuch >"$tmp/out" 2>&1 && fail 'decide took a policy that is not there'
expect 'decide: opening: no policy `nosuch`' "$tmp/out"

# --- kvmod.conf(5): a configuration ---------------------------------------------------

example kvmod.conf.5 kvmod.conf
./kvmod list -c "$tmp/kvmod.conf" >"$tmp/out" 2>&1 || fail "kvmod.conf: $(cat "$tmp/out")"

exit $status
