#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Completion in bash, called as bash calls it.
. "${srcdir:-.}/tests/cli/lib.sh"

if ! command -v bash >/dev/null; then
	echo 'skipped: there is no bash'
	exit 77
fi

# completes WORD... - the last word is completed; the command is ours.
completes() {
	# compopt works only while bash completes.
	try bash -c '
		. "$1"
		compopt() { :; }
		shift
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		_kvmod
		printf "%s\n" "${COMPREPLY[@]}" | sort
	' bash "$srcdir/conf/completion/kvmod" "$build/kvmod" "$@"
	exits 0
	: | err
}

completes ''
for command in bench check eval heads info list new plot run selftest; do
	grep -qx $command "$tmp/out" || fail "no $command in: $(tr '\n' ' ' <"$tmp/out")"
done
completes ru
echo run | out
completes bench e
echo engine | out
completes run --com
echo --compare | out
completes run --tem
echo --temperature= | out
completes bench ga
echo gather | out
completes bench decision --sw
echo --sweep | out
completes bench gather --device cp
echo cpu | out
completes bench load --rou
echo --rounds= | out
completes run --policy top
echo topp | out
completes run --policy = top
echo topp | out
# One that no other module provides: cuda brings some of them for the GPU.
completes run --policy rand
echo random | out
printf '[blacklist]\nrandom = slow\n' >>"$KVMOD_CONF"
completes run --policy rand
echo | out
completes info rand
echo | out
completes info topp
echo topp | out
completes list pol
echo policies | out
completes new --kind s
printf 'scorer\nspans\n' | out
mkdir "$tmp/files"
: >"$tmp/files/prompt.txt"
for option in -f --context; do
	completes run $option "$tmp/files/pro"
	echo TMP/files/prompt.txt | out
done
for option in -d --data --results; do
	completes eval $option "$tmp/files/pro"
	echo TMP/files/prompt.txt | out
done
completes new -d "$tmp/fil"
echo TMP/files | out
completes new -d "$tmp/files/pro"
echo | out
completes eval --context
echo --context-first | out
completes eval --data= "$tmp/files/prompt.txt" streaming
echo streamingllm | out
completes plot cur
echo curve | out
completes plot text --fr
echo --from= | out
completes plot text "$tmp/files/pro"
echo TMP/files/prompt.txt | out
completes plot text -o "$tmp/files/pro"
echo TMP/files/prompt.txt | out
completes run --cont
echo --context= | out
finish
