#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check of a real model, without loading its weights, and of files that are not models.
. "${srcdir:-.}/tests/cli/lib.sh"

model=$(sed -n 's/^DEFAULT_MODEL = //p' Makefile)
if [ ! -f .libs/ggml.so ] || [ -z "$model" ]; then
	echo 'skipped: built without the engine ggml or without --with-model'
	exit 77
fi
printf '[kvmod]\npolicy = snapkv\n' >"$KVMOD_CONF"

kvmod check
exits 0
: | err
out <<'END'
fine   configuration TMP/kvmod.conf
fine   policy snapkv from BUILD/.libs/snapkv.so
fine   engine ggml from BUILD/.libs/ggml.so
END

# The policies that run refuses with the engine llama, which cannot cut its cache.
for policy in snapkv streamingllm; do
	kvmod check -o kvmod.engine=llama --policy $policy
	exits 1
	grep -Fqx "failed engine llama: with policy $policy: engine llama cannot cut its cache: use the policy fullkv with this engine" \
		"$tmp/out" || fail "$(cat "$tmp/out")"
done
kvmod check -o kvmod.engine=llama --policy fullkv
exits 0

# engine MESSAGE - the engine's finding; the policy is fine.
engine() {
	exits 1
	grep -v '^fine' "$tmp/out" >"$tmp/tidy"
	mv "$tmp/tidy" "$tmp/out"
	echo "failed engine ggml: $1" | out
}

kvmod check -m "$tmp/nothing.gguf"
engine 'TMP/nothing.gguf: No such file or directory'
echo 'no model at all' >"$tmp/text.gguf"
kvmod check -m "$tmp/text.gguf"
engine 'TMP/text.gguf: not a GGUF file: the file does not begin with "GGUF"'
# The header is complete, the weights are truncated.
head -c 3000000 "$model" >"$tmp/short.gguf"
kvmod check -m "$tmp/short.gguf"
exits 1
grep -q '^failed engine ggml: .*/short.gguf: tensor .*: truncated: .* but the file has 3000000$' "$tmp/out" ||
	fail "$(cat "$tmp/out")"
kvmod check -o 'engine ggml.context=100000'
engine "context = 100000 exceeds the model's context of 8192 tokens: set context_override = yes to allow this"
if [ ! -e /dev/nvidiactl ]; then
	kvmod check -o 'engine ggml.gpu_layers=3'
	exits 1
	grep -q '^failed engine ggml: gpu_layers = 3: .*; set gpu_layers = 0$' "$tmp/out" ||
		fail "$(cat "$tmp/out")"
fi
finish
