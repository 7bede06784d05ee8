#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# On a terminal: colours, unless NO_COLOR is set, and a bar that leaves no trace.
. "${srcdir:-.}/tests/cli/lib.sh"

if ! script -qec true /dev/null >/dev/null 2>&1; then
	echo 'skipped: there is no script(1) to make a terminal'
	exit 77
fi
escape=$(printf '\033')
TERM=xterm
export TERM

# shows COMMAND - runs it on its own terminal.
shows() {
	try script -qec "'$build/kvmod' $1" /dev/null
}

shows 'run hello'
exits 0
has "$escape[1mpolicy"
! grep -q 'prefill \[' "$tmp/out" || fail 'a bar for what takes no time'
NO_COLOR=1
export NO_COLOR
shows 'run hello'
has 'policy   fullkv'
! grep -q "$escape" "$tmp/out" || fail 'colours in spite of NO_COLOR'
unset NO_COLOR
shows "run -o 'engine fake.delay=400' -n 1 hello"
has 'prefill [########################] 8/8'
tr '\r' '\n' <"$tmp/out" >"$tmp/lines"
grep -q "^$escape\[Kh" "$tmp/lines" || fail 'the bar is still there when the answer begins'
kvmod run hello
! grep -q "$escape" "$tmp/out" "$tmp/err" || fail 'colours in a pipe'
# A background child that prints to the terminal is not stopped.
noisy="-o 'kvmod.module_path=$build/tests/cli/noisy/.libs:$build/tests/cli/.libs' -o kvmod.policy=noisy"
try script -qec "stty tostop; '$build/kvmod' check --limit 20 $noisy" /dev/null
exits 0
has 'noise from compress'
try script -qec "stty tostop; '$build/kvmod' selftest --limit 20 '$build/tests/cli/noisy/.libs/noisy.so'" /dev/null
! grep -q 'still running' "$tmp/out" || fail 'selftest: a module that prints was stopped'
finish
