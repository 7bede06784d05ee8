#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A model on the GPU, with its cache cut there by the CUDA version of the configured
# policy: it keeps what the CPU's version keeps of the same cache.
#	run.test.sh [PROMPTS]	a folder of texts, instead of questions about one
if [ "$HAVE_GGML" != yes ]; then
	echo "SKIP: built without ggml"
	exit 77
fi
. "${srcdir:=.}/tests/cli/lib.sh"

# on DEVICE LAYERS - a configuration: where the policy runs, and how much of the model
# is on the GPU.
on() {
	cat >"$KVMOD_CONF" <<END
[kvmod]
policy = refreekv
device = $1
leave_below = 0
${MODULE_PATH:+module_path = $MODULE_PATH}

[engine ggml]
gpu_layers = $2
model = ${MODEL:-$build/models/default.gguf}
END
}

# ask FILE QUESTION - its answer as JSON, short.
ask() {
	if [ -n "$2" ]; then
		kvmod run --json -n 8 -f "$1" "$2"
	else
		kvmod run --json -n 8 -f "$1"
	fi
	exits 0
}

# value KEY - of the last answer, a number, a string or lists of lists.
value() {
	sed -n "s/.*\"$1\": \\(\\[\\[.*\\]\\]\\|\"[^\"]*\"\\|[0-9.e+-]*\\).*/\\1/p" "$tmp/out"
}

# Equal lists of counts; how many layers they are.
equal_layers() {
	printf '%s\n%s\n' "$1" "$2" | sed 's/^\[//; s/\], /]\n/g; s/\]\]/]/' | awk '
		{ line[++n] = $0 }
		END { for (i = 1; i <= n / 2; i++) same += line[i] == line[i + n / 2]; print same + 0 " of " n / 2 }'
}

one() {
	on cuda -1
	ask "$1" "$2"
	[ "$(value device)" = '"cuda"' ] || fail "it ran on $(value device), expected cuda"
	there=$(value kept) budget=$(value budget) text=$(value text)
	on cpu -1
	ask "$1" "$2"
	[ "$(value device)" = '"cpu"' ] || fail "it ran on $(value device), expected cpu"
	[ "$(value kept)" = "$there" ] || fail "the GPU kept $there
and the CPU, of the same cache, $(value kept)"
	on cpu 0
	ask "$1" "$2"
	printf '%s: budget %s on the GPU, %s by a CPU run whose cache differs by rounding; layers equal: %s; %s\n' \
		"${2:-${1##*/}}" "$budget" "$(value budget)" "$(equal_layers "$there" "$(value kept)")" "$text"
	on cuda -1
	if [ -n "$2" ]; then
		kvmod run --compare -n 8 -f "$1" "$2"
	else
		kvmod run --compare -n 8 -f "$1"
	fi
	exits 0
	sed 's/^/    /' "$tmp/err"
}

on cuda 1
kvmod run -n 1 'One.'
if [ "$status" -ne 0 ]; then
	echo "SKIP: $(cat "$tmp/err")"
	exit 77
fi
if [ -n "$1" ]; then
	for file in "$1"/*; do
		one "$file" ''
	done
else
	story=$srcdir/conf/examples/saltmere.txt
	one "$story" 'At what time did the silver watch stop?'
	one "$story" 'Who pays for the bridge?'
	one "$story" 'What did the lighthouse keeper write down?'
	one "$story" 'Tell the story in two sentences.'
	one "$story" 'Which animals are named?'
fi
finish
