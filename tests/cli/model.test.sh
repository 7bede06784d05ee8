#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run on a real model: the engines ggml and llama, and files that are not models.
. "${srcdir:-.}/tests/cli/lib.sh"

model=$(sed -n 's/^DEFAULT_MODEL = //p' Makefile)
if [ ! -f .libs/ggml.so ] || [ -z "$model" ]; then
	echo 'skipped: built without the engine ggml or without --with-model'
	exit 77
fi
cat >"$KVMOD_CONF" <<'END'
[kvmod]
policy = refreekv
threads = 2
leave_below = 0
END

# --- answers -----------------------------------------------------------------------------

question='Count from one to five in words, with commas.'
kvmod run --json -n 12 "$question"
exits 0
: | err
json --only model:string policy=refreekv device=cpu prompt_tokens:integer \
	generated_tokens:integer text:string kept.0.0:integer kept.29.2:integer seen:integer budget:real \
	cache_bytes_full:integer cache_bytes:integer decode_cuts=0 prefill_tok_s:real \
	decision_ms:real decode_tok_s:real

# Both engines tokenize the prompt alike and report the size of the whole cache.
kvmod run --policy fullkv --json -n 12 "$question"
cp "$tmp/out" "$tmp/full"
json policy=fullkv budget=1
kvmod run -o kvmod.engine=llama --policy fullkv --json -n 12 "$question"
exits 0
same_member() {
	a=$(sed "s/.*\"$1\": \([^,]*\),.*/\1/" "$tmp/full")
	b=$(sed "s/.*\"$1\": \([^,]*\),.*/\1/" "$tmp/out")
	[ "$a" = "$b" ] || fail "$1 is $a with ggml, $b with llama"
}
same_member prompt_tokens
same_member cache_bytes_full
kvmod run -o kvmod.engine=llama -n 4 "$question"
says 1 'kvmod: engine llama cannot cut its cache: use the policy fullkv with this engine'
# A policy without needs is refused too, before anything is run.
kvmod run -o kvmod.engine=llama --policy streamingllm -n 4 "$question"
says 1 'kvmod: engine llama cannot cut its cache: use the policy fullkv with this engine'

kvmod run --compare -n 8 --policy streamingllm -o 'policy streamingllm.budget=20' "$question"
exits 0
grep -q '^policy   streamingllm on cpu: budget 0\.' "$tmp/err" || fail 'no budget'
grep -q '^compare  KL divergence mean [0-9.]*, max [0-9.]* nats' "$tmp/err" || fail 'no comparison'
grep -q 'replayed loss [0-9.]* nats' "$tmp/err" || fail 'no replayed loss'

# Rows in fewer bits: 68 and 36 bytes for keys and values of 64 numbers instead of 128 each.
share() {
	sed 's/.*"cache_bytes_full": \([0-9]*\), "cache_bytes": \([0-9]*\),.*/\1 \2/' "$tmp/out" |
		while read -r full bytes; do
			[ $((full * $1)) -eq $((bytes * 256)) ] || fail "cache_bytes is $bytes of $full"
		done
}
kvmod run --policy fullkv --json -n 2 -o kvmod.store=q8_0 "$question"
share 136
kvmod run --policy fullkv --json -n 2 --compare -o kvmod.store=q8_0/q4_0 "$question"
share 104
# It is the whole cache, but for rounding.
sed 's/.*"kl_mean": \([^,]*\),.*/\1/' "$tmp/out" |
	awk '{ exit !($1 > 0 && $1 < 0.05) }' || fail 'stores cost nothing, or too much'
: | err
kvmod run --policy streamingllm -o 'policy streamingllm.budget=20' --json -n 2 -o kvmod.store=q8_0 \
	--context "$KVMOD_CONF" 'What is this?' 'And why?'
exits 0
# A sequence that is left whole is stored as it was.
kvmod run --policy fullkv --json -n 2 -o kvmod.store=q8_0 -o kvmod.leave_below=4096 "$question"
share 256
kvmod run --policy fullkv -o kvmod.engine=llama -n 1 -o kvmod.store=q8_0 "$question"
exits 0
grep -qxF 'kvmod: warning: [kvmod] store = q8_0: engine llama cannot store rows as another type: they stay as they are' \
	"$tmp/err" || fail 'no warning'
kvmod run -o kvmod.store=q4_0 "$question"
says 1 'kvmod: -o kvmod.store=q4_0: expected one of same, q8_0, q8_0/q4_0'

# With closed gaps, answers and conversations can be longer than the context.
stream() {
	kvmod run --raw -o kvmod.threads=1 -o 'engine ggml.context=32' \
		-o 'policy streamingllm.budget=12' -o 'policy streamingllm.decode_every=4' "$@" 'Once upon a time'
}
stream --policy streamingllm --json -n 40
exits 0
json prompt_tokens=4 generated_tokens=40
stream --policy snapkv -n 40
says 1 'kvmod: 4 tokens of prompt and 40 of answer exceed the context of 32'
stream --policy streamingllm --compare -n 40
says 1 'kvmod: 4 tokens of prompt and 40 of answer exceed the context of 32'
stream --policy streamingllm -o 'policy streamingllm.budget=100%' -n 40
exits 1
grep -qx 'kvmod: 1 new and 32 cached tokens exceed the context of 32' "$tmp/err" || fail 'no reason'
# Without -n, as many tokens as fit.
stream --policy streamingllm -o 'policy streamingllm.budget=100%' --json
exits 0
json generated_tokens=29
for every in 0 4; do
	printf 'One\nTwo\nThree\nFour\nFive\n' >"$tmp/turns"
	kvmod run -i --raw --policy streamingllm -n 10 -o kvmod.threads=1 -o 'engine ggml.context=32' \
		-o 'policy streamingllm.budget=12' -o "policy streamingllm.decode_every=$every" <"$tmp/turns"
	exits 0
done

# A prompt that is too short to replay 32 tokens is measured over fewer.
kvmod run -n 2 q
exits 0
grep -q 'replayed loss [0-9.]* nats' "$tmp/err" || fail 'no replayed loss'
kvmod run --raw -n 2 a
exits 0

# --raw: special tokens are tokens, and the same text with and without them differs in length.
kvmod run --raw --json -n 1 --policy fullkv '<|im_start|>user'
json prompt_tokens=2
kvmod run --json -n 1 --policy fullkv '<|im_start|>'
json --only prompt_tokens:integer model:string policy:string device:string generated_tokens=1 \
	text:string kept:array seen:integer budget:real cache_bytes_full:integer cache_bytes:integer \
	decode_cuts=0 prefill_tok_s:real decision_ms:real decode_tok_s:real

printf 'My name is Ada.\nWhat is my name?\n' | {
	kvmod run -i -n 6
	exits 0
	[ "$(grep -c '^kept' "$tmp/err")" -eq 2 ] || fail 'not two turns'
}

# Ten turns: a fraction refers to all tokens seen, so no turn cuts what an earlier one left.
# adakv rounds the share of each of three heads: 2% at most of 40 tokens and more.
for n in 1 2 3 4 5 6 7 8 9 10; do
	echo 'Tell me more, please.'
done | {
	kvmod run -i -n 1 -o 'engine ggml.threads=1' --policy adakv \
		-o 'policy adakv.budget=25%' -o 'policy adakv.window=4'
	exits 0
	sed -n 's/^policy   adakv on cpu: budget //p' "$tmp/err" >"$tmp/budgets"
	awk '$1 < 0.22 || $1 > 0.27 { bad = 1 } END { exit bad || NR != 10 }' "$tmp/budgets" ||
		fail "not a quarter in each of ten turns: $(paste -s -d' ' "$tmp/budgets")"
}

# Short prompts are not cut unless the configuration asks for it.
kvmod run -n 1 -o 'engine ggml.threads=1' -o kvmod.leave_below=256 'What is 2+2?'
exits 0
grep -q '^policy   refreekv on cpu: budget 1.0000; so short a sequence stays whole' "$tmp/err" ||
	fail 'a short prompt was cut'

# --- context first -----------------------------------------------------------------------------

for n in 11 12 13 14 15 16; do
	echo "Register ab$n holds 3$n."
done >"$tmp/registers"
ask() {
	kvmod run -n 12 -o 'engine ggml.threads=1' --json --context "$tmp/registers" "$@"
}
number='What number does register ab13 hold?'
ask --policy fullkv --compare "$number" 'What number does register ab15 hold?'
exits 0
: | err
[ "$(wc -l <"$tmp/out")" -eq 2 ] || fail 'not an answer for each question'
# A fork of the whole cache is the whole cache.
[ "$(grep -c '"kl_mean": 0.0, "kl_max": 0.0, "agree": 1.0' "$tmp/out")" -eq 2 ] ||
	fail "whole, and not the same: $(cat "$tmp/out")"
# Both engines tokenize the parts alike.
ask --policy fullkv "$number"
cp "$tmp/out" "$tmp/full"
ask -o kvmod.engine=llama --policy fullkv "$number"
exits 0
same_member prompt_tokens
same_member cache_bytes_full
same_member tokens
same_member text
# What is cut is the context alone: 40% of its tokens are kept, and all of the question.
ask --policy streamingllm -o 'policy streamingllm.budget=40%' --compare "$number"
exits 0
seen=$(sed 's/.*"context": {"tokens": \([0-9]*\),.*/\1/' "$tmp/out")
asked=$(sed 's/.*"prompt_tokens": \([0-9]*\),.*/\1/' "$tmp/out")
json "context.kept.0.0=$((seen * 2 / 5))" "context.kept.29.2=$((seen * 2 / 5))" \
	"kept.0.0=$((seen * 2 / 5 + asked))" "kept.29.2=$((seen * 2 / 5 + asked))" \
	kl_mean:real context.budget:real
printf '%s\nAnd ab15?\n' "$number" >"$tmp/turns"
kvmod run -i -n 12 --policy fullkv -o 'engine ggml.threads=1' --context "$tmp/registers" <"$tmp/turns"
exits 0
[ "$(grep -c '^question ' "$tmp/err")" -eq 2 ] || fail 'not two turns'
[ "$(grep -c '^kept ' "$tmp/err")" -eq 1 ] || fail 'the context was cut again'
# A question makes no room: only cuts while decoding do.
echo 'Once upon a time' >"$tmp/once"
once() {
	kvmod run --raw -o 'engine ggml.threads=1' -o 'engine ggml.context=32' -n 40 --policy streamingllm \
		-o 'policy streamingllm.budget=12' --context "$tmp/once" "$@" 'there'
}
once -o 'policy streamingllm.decode_every=4'
exits 0
once -o 'policy streamingllm.decode_every=0'
exits 1
grep -q '^kvmod: [0-9]* tokens of prompt and 40 of answer exceed the context of 32$' "$tmp/err" ||
	fail "no reason: $(tail -n 1 "$tmp/err")"

# --- files that are not models ---------------------------------------------------------------

head -c 5000 "$model" >"$tmp/short.gguf"
kvmod run -m "$tmp/short.gguf" hello
exits 1
grep -q '^kvmod: .*/short.gguf: truncated or damaged GGUF file' "$tmp/err" || fail 'not said to be truncated'
echo 'no model at all' >"$tmp/text.gguf"
kvmod run -m "$tmp/text.gguf" hello
says 1 'kvmod: TMP/text.gguf: not a GGUF file: the file does not begin with "GGUF"'
mkfifo "$tmp/fifo.gguf"
for engine in ggml llama; do
	try timeout 20 "$build/kvmod" run -o kvmod.engine=$engine --policy fullkv -m "$tmp/fifo.gguf" hello
	says 1 'kvmod: TMP/fifo.gguf: not a GGUF file: a FIFO, expected a regular file'
done
kvmod run -m "$tmp/nothing.gguf" hello
says 1 'kvmod: TMP/nothing.gguf: No such file or directory'

# --- like with like ------------------------------------------------------------------------

for type in f32 q8_0; do
	kvmod bench engine --threads 1 --lengths 40 --decode 2 -o "engine ggml.cache_type=$type" \
		-o 'engine ggml.batch=16' --policy streamingllm -o 'policy streamingllm.budget=20' \
		-o 'policy streamingllm.decode_every=1' --json
	exits 0
	: | err
	json engine=ggml rival=llama lengths.0.tokens=40 lengths.0.budget=0.5
done
# Settings that the rival cannot follow are refused, not ignored.
kvmod bench engine --lengths 40 --decode 2 -o 'engine llama.cache_type=f32'
says 1 'kvmod: cache_type is set for engine llama, but not for engine ggml: expected the same for both'
finish
