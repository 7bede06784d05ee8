#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check --print: each value in force, and where it comes from.
. "${srcdir:-.}/tests/cli/lib.sh"

mkdir "$tmp/modules" "$tmp/own.conf.d"
cp "$build/.libs/topp.so" "$build/.libs/random.so" "$build/tests/cli/.libs/fake.so" "$tmp/modules"
cat >"$tmp/own.conf" <<'END'
[kvmod]
module_path = modules
policy = gone
engine = fake

[policy topp]
p = 0.5

[policy gone]
budget = 3

[engine fake]
model = own.conf

[alias]
mine = nothing
END
cat >"$tmp/own.conf.d/10.conf" <<'END'
[kvmod]
policy = mine
[alias]
mine = topp
[blacklist]
random = slow
END
warning='kvmod: warning: TMP/own.conf:9: no policy `gone` is installed: its section has no effect'

kvmod check --print -c "$tmp/own.conf" -o 'policy mine.p=0.25' -o engine\ fake.delay=0
exits 0
echo "$warning" | err
sed -i 's/   */ /' "$tmp/out"
out <<'END'
[kvmod]
module_path = TMP/modules ; TMP/own.conf:2
policy = mine ; TMP/own.conf.d/10.conf:2
engine = fake ; TMP/own.conf:4
device = auto ; default
threads = 0 ; default
leave_below = 256 ; default
store = same ; default
log_level = note ; default
allow_owner = ; default

[policy topp]
p = 0.25 ; command line
whole_layers = 2 ; default

[engine fake]
broken = nothing ; default
context = 4096 ; default
context_override = no ; default
delay = 0 ; command line
device = ; default
model = TMP/own.conf ; TMP/own.conf:13
notes = ; default
repeat = 1 ; default
replay = no ; default
threads = 0 ; default

[alias]
mine = topp ; TMP/own.conf.d/10.conf:4

[blacklist]
random = slow ; TMP/own.conf.d/10.conf:6
END

kvmod check --print --json -c "$tmp/own.conf"
exits 0
json --only settings:array settings.0.key=module_path settings.0.value="$tmp/modules" settings.0.from=file \
	settings.0.file="$tmp/own.conf" settings.0.line=2 settings.1.section=kvmod \
	settings.1.from=drop-in settings.1.line=2 settings.3.from=default
kvmod check --print --json -c "$tmp/own.conf" --policy fullkv -m /dev/null
json settings.1.value=fullkv settings.1.from='command line'

# The output is a configuration, and printing that one gives the same output.
kvmod check --print -c "$tmp/own.conf"
sed 's/ *;.*//' "$tmp/out" >"$tmp/first"
cp "$tmp/out" "$tmp/printed.conf"
kvmod check --print -c "$tmp/printed.conf"
exits 0
sed 's/ *;.*//' "$tmp/out" | diff "$tmp/first" - || fail 'it is read otherwise than it was printed'

# A file cannot contain this value, so it is printed in a comment.
kvmod check --print -c /dev/null -o 'blacklist.random=slow ; really'
exits 0
grep -q '^# random = slow ; really *; command line$' "$tmp/out" || fail "$(cat "$tmp/out")"

# What is in use is printed even without a section; a mistake is reported as elsewhere.
kvmod check --print -c /dev/null -o "kvmod.module_path=$tmp/modules" --policy topp
exits 0
has '[policy topp]'
kvmod check --print -c /dev/null -o kvmod.threads=many
says 1 'kvmod: -o kvmod.threads=many: expected an integer in 0..1024'
finish
