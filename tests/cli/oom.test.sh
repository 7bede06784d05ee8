#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each allocation of a command fails once: the command then gives the right answer, or
# none and an exit status of 1 with a reason. A policy without memory costs only
# compression, with a message.
. "${srcdir:=.}/tests/cli/lib.sh"

if grep -q '^#define KVMOD_SANITIZED' config.h; then
	echo 'skipped: a sanitizer has an allocator of its own'
	exit 77
fi
failing=$build/tests/cli/.libs/failing.so
mark=$tmp/mark
mkdir "$tmp/modules"
cp "$build/.libs/snapkv.so" "$build/tests/cli/.libs/fake.so" "$tmp/modules"
printf '[kvmod]\nmodule_path = %s\nengine = fake\nthreads = 1\n' "$tmp/modules" >"$KVMOD_CONF"
prompt='what do you want from me on such a long and busy day in the middle of nowhere?'

# Without the figures that differ from run to run.
answer() {
	sed 's/, "prefill_tok_s.*//' "$1"
}

# each_fails COMMAND... - 2000 failures would be a loop that never ends.
each_fails() {
	"$build/libtool" --mode=execute "$build/kvmod" "$@" >"$tmp/right" 2>/dev/null || {
		fail "$*: the command itself fails"
		return
	}
	answer "$tmp/right" >"$tmp/expected"
	n=0
	while [ $n -lt 2000 ]; do
		rm -f "$mark"
		try env KVMOD_FAIL_AT=$n KVMOD_FAIL_MARK="$mark" LD_PRELOAD="$failing" \
			LD_LIBRARY_PATH="$build/.libs" "$build/.libs/kvmod" "$@"
		[ -e "$mark" ] || break
		judge
		n=$((n + step))
	done
	[ $n -gt 100 ] && [ $n -lt 2000 ] || fail "$n allocations"
}

judge() {
	case $status in
	0)
		answer "$tmp/out" | cmp -s - "$tmp/expected" ||
			grep -q 'stays whole: no memory\|no memory .*stays whole\|cannot count' "$tmp/err" ||
			fail "allocation $n: another answer: $(cat "$tmp/out" "$tmp/err")"
		;;
	1)
		[ -s "$tmp/err" ] || grep -q 'failed' "$tmp/out" || fail "allocation $n: no reason"
		;;
	*)
		fail "allocation $n: status $status: $(cat "$tmp/err")"
		;;
	esac
}

step=1
each_fails info snapkv
echo '{"policy": "p", "budget": 0.5, "tokens": ["a", "b"], "position_shares": [1, 0]}' >"$tmp/run.json"
each_fails plot text "$tmp/run.json"
# A few of each, to save time: these steps reach all kinds of calls.
step=3
each_fails list --json
each_fails run --json -n 3 --policy snapkv -o 'policy snapkv.window=2' "$prompt"
step=5
each_fails check
finish
