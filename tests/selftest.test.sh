#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# kvmod selftest: all our modules pass, and each fault is reported by name.
: "${srcdir:=.}"
status=0
tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-selftest.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT

# run CODE ARGUMENT... - checks the exit code; stdout and stderr are in $tmp.
run() {
	wanted=$1
	shift
	./kvmod selftest "$@" >"$tmp/out" 2>"$tmp/err"
	got=$?
	[ $got -eq "$wanted" ] || fail "kvmod selftest $*: exit code $got, not $wanted"
}

fail() {
	echo "FAIL: $*"
	sed 's/^/  | /' "$tmp/out" "$tmp/err"
	status=1
}

# The last line is "N of N", or with MISSING "N-MISSING of N".
passed() {
	tail -n 1 "$tmp/out" |
		awk -v missing="$1" 'NF == 3 && $2 == "of" && $1 == $3 - missing && $1 > 20 { ok = 1 }
			END { exit !ok }' || fail "$2: the last line is not as it should be"
}

# --- our own --------------------------------------------------------------------------

for policy in adakv cake criticalkv defensivekv duo h2o knorm pyramidkv random refreekv rkv snapkv \
	streamingllm topp tova; do
	run 0 "$policy"
	passed 0 "$policy"
	[ "$(wc -l <"$tmp/out")" -eq 1 ] || fail "$policy: more than one line"
done
for policy in adakv h2o knorm rkv snapkv streamingllm topp tova; do
	run 0 "./.libs/$policy.so" --vectors "$srcdir/tests/golden/policies.txt"
	passed 0 "$policy"
	n=$(grep -c "^policy $policy\$" "$srcdir/tests/golden/policies.txt")
	grep -qx "golden vectors: $n of $n" "$tmp/out" || fail "$policy: not all golden vectors"
	# Vectors of caches that earlier turns cut.
	run 0 "./.libs/$policy.so" --vectors "$srcdir/tests/golden/second-turns.txt"
	n=$(grep -c "^policy $policy\$" "$srcdir/tests/golden/second-turns.txt")
	grep -qx "golden vectors: $n of $n" "$tmp/out" || fail "$policy: not all second turns"
done

run 0 refreekv --vectors "$srcdir/tests/golden/refreekv.txt" \
	--vectors "$srcdir/tests/golden/policies.txt"
passed 0 refreekv
grep -qx 'golden vectors: 89 of 89' "$tmp/out" || fail "refreekv: not all golden vectors"
run 0 refreekv --vectors "$srcdir/tests/golden/second-turns.txt"
grep -qx 'golden vectors: 2 of 2' "$tmp/out" || fail "refreekv: not all second turns"

# --- what goes wrong ---------------------------------------------------------------------

# misdeed HOW WORDS - one check fails, the others still run.
misdeed() {
	run 1 tests/.libs/misbehave.so --limit=3 -o "policy misbehave.how=$1"
	passed 1 "$1"
	[ "$(wc -l <"$tmp/out")" -eq 2 ] || fail "$1: not two lines"
	grep -q "^not ok [0-9]* - misbehave: fewer rows of Q than asked for: $2\$" "$tmp/out" ||
		fail "$1: not told as expected"
}

run 0 tests/.libs/misbehave.so
misdeed crash 'crashed: signal 6 (Aborted)'
misdeed leave 'crashed: signal 6 (Aborted)'
misdeed hang 'still running after 3 seconds'
misdeed mute 'still running after 3 seconds'
misdeed exit 'the process exited with code 42'
misdeed unsorted '.*; 4 of 4 segments stay whole'
misdeed empty '.*; 4 of 4 segments stay whole'
misdeed oldest '.*newest.*; 4 of 4 segments stay whole'
misdeed unwritten '.*keeps index 4294967295.*; 4 of 4 segments stay whole'
misdeed write 'the policy wrote to the cache'
misdeed fickle 'two equal requests got different plans: layer 0, KV head 0'
misdeed silent 'compress() returned KVMOD_ENOTSUP without a message'
misdeed code 'policy misbehave: compress() returned 17, expected 0 or a KVMOD_E code'

run 1 tests/.libs/dead.so
grep -q '^not ok 2 - loads: crashed: signal 6 (Aborted)$' "$tmp/out" || fail "dead: not told"
tail -n 1 "$tmp/out" | grep -qx '1 of 3' || fail "dead: the suite continues"

# --- vectors that do not fit -----------------------------------------------------------------

cat >"$tmp/wrong" <<'END'
case shifted
policy streamingllm
shape layers=1 n=10 q_heads=2 kv_heads=1 head_dim=8 rows=0
params budget=4 sinks=1
expect layer=0 head=0 count=4 positions=0,5,8,9
end
END
run 1 streamingllm --vectors "$tmp/wrong"
grep -q "^not ok .* - vector wrong:1 shifted: layer 0, KV head 0 keeps 4 of 10 positions, expected 4; the first difference is position 5\$" "$tmp/out" ||
	fail "a wrong vector"

# --- the command line --------------------------------------------------------------------------

run 2
run 2 a b
run 2 topp --limit=0
run 1 no-such-policy
run 1 "$tmp/no-such-file.so"
run 1 topp --vectors "$tmp/no-such-file"
run 0 topp --json
grep -q '"failures": \[\]' "$tmp/out" || fail "--json: no list of failures"

exit $status
