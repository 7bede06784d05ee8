#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Text from others, in messages, names and prints: it cannot control a terminal, JSON has
# all of it, and nothing is printed into the middle of JSON.
. "${srcdir:-.}/tests/cli/lib.sh"

# In a folder whose name is Latin-1, not UTF-8.
folder=$tmp/$(printf 'caf\351')
mkdir "$folder"
cp "$build/tests/cli/noisy/.libs/noisy.so" "$folder"
cat >"$KVMOD_CONF" <<END
[kvmod]
module_path = $folder:$build/tests/cli/.libs
engine = fake
leave_below = 0
policy = noisy
END

# clean FILE - only printable characters and line ends, no direction marks.
clean() {
	if LC_ALL=C.UTF-8 grep -naP '[^\P{C}\n]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]' "$tmp/$1" ||
		! iconv -f UTF-8 -t UTF-8 "$tmp/$1" >/dev/null 2>&1; then
		fail "$1 holds what a terminal obeys"
	fi
}

# quiet - one line of JSON on stdout; the module's prints are on stderr.
quiet() {
	[ "$(wc -l <"$tmp/out")" -eq 1 ] || fail "stdout: $(cat "$tmp/out")"
	grep -q '^noise from' "$tmp/err" || fail "no noise on stderr"
}

kvmod list
exits 0
clean out
has 'red \x9b31m and \u202eturned'
kvmod info noisy
exits 0
clean out
sed "s|$tmp|TMP|" "$tmp/out" | grep -qF 'file         TMP/caf\xe9/noisy.so' || fail "the path: $(cat "$tmp/out")"
has '\u2066nobody\u2069'
kvmod list --json
json modules:array modules.0.path:string
grep -qF 'caf\\xe9/noisy.so' "$tmp/json" || fail 'no path of the module in JSON'
kvmod info --json noisy
json file:string name:string description:string

message='caf\xe9 \x9b31m \x1b[2J \u202egnp.\u202c'
kvmod check -o 'policy noisy.refuse=yes'
exits 1
clean out
clean err
has "failed policy noisy: $message"
kvmod check --json -o 'policy noisy.refuse=yes'
exits 1
quiet
json fine:false findings:array findings.1.message:string
grep -qF 'caf\\xe9 \\x9b31m \\x1b[2J \\u202egnp.\\u202c' "$tmp/json" || fail "$(cat "$tmp/json")"
kvmod check --json
exits 0
quiet
json fine:true findings:array
kvmod run -n 3 -o 'policy noisy.refuse=yes' hello
exits 1
clean err

kvmod run --json -n 3 hello
exits 0
quiet
json policy:string text:string budget:real
kvmod selftest --json "$folder/noisy.so"
quiet
json file:string failures:array

# A message of the command itself, about a name that somebody typed.
kvmod info "$(printf 'no\033[31mbody')"
exits 1
clean err

# A limit on the size of files is a write error; the signal kills nothing.
tried='kvmod list >FILE, ulimit -f 0'
(
	ulimit -f 0
	exec "$build/kvmod" list >"$tmp/limited" 2>/dev/null
)
status=$?
exits 1
finish
