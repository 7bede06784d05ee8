#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench engine and bench load: their output is complete; speed is not tested.
. "${srcdir:-.}/tests/cli/lib.sh"

bench() {
	kvmod bench engine --rival fake --lengths 100,200 --decode 4 "$@"
}

bench --policy streamingllm -o 'policy streamingllm.budget=50' --json
exits 0
: | err
json --only model=Echo engine=fake engine_on=cpu rival=fake rival_on=cpu policy=streamingllm \
	policy_on=cpu threads=2 rounds=9 decode_tokens=4 read_gb_per_s=0 weights_bytes=0 \
	lengths.0.device:null lengths.0.tokens=100 lengths.0.budget=0.5 lengths.1.budget=0.25 \
	lengths.0.prefill.ratio:real lengths.0.prefill.ours_s.median:real \
	lengths.0.prefill.rival_s.high:real lengths.0.first_token.ratio:real \
	lengths.0.decode_full.ratio:real lengths.1.decode_cut.ratio:real \
	lengths.1.decode_cut_model.ratio:real lengths.1.decode_cut_model.short_s.median:real
printf 'a text to run' >"$tmp/text"
bench -f "$tmp/text" --prompts 1
exits 0
has 'Echo, engine fake (cpu) against fake (cpu), policy fullkv (cpu), 2 threads, 9 rounds of 4 tokens'
has '100 tokens: prefill '
has 'decode, cut cache'
has 'budget 1.0000'
bench --lengths 5000
exits 1
echo 'kvmod: 5000 new and 0 cached tokens exceed the context of 4096' | err
bench --rounds 3
says 2 'kvmod: --rounds=3: expected 9 to 1000 (see `kvmod bench engine --help`)'
bench --prompts 10
says 2 'kvmod: --prompts=10: expected at most --rounds (9) (see `kvmod bench engine --help`)'
bench --decode 0
says 2 'kvmod: --decode=0: expected 1 to 4096 (see `kvmod bench engine --help`)'
bench --lengths 100,many
says 2 'kvmod: --lengths=100,many: expected at most 16 whole numbers, such as 512,2048 (see `kvmod bench engine --help`)'
# A rival with another model or other settings is no fair comparison.
kvmod bench engine --rival llama -o 'engine llama.batch=64'
[ ! -f .libs/ggml.so ] ||
	says 1 'kvmod: batch is set for engine llama, but not for engine fake: expected the same for both'
bench -m "$tmp/nothing.gguf"
says 1 'kvmod: TMP/nothing.gguf: No such file or directory'

kvmod bench load --policy topp --rounds 9 --json
exits 0
json --only policy=topp module:string rounds=9 load_us.median:real dlopen_us.median:real \
	above_us:real ratio:real
kvmod bench load --policy topp --rounds 9
exits 0
has 'dlopen of an empty file'
kvmod bench load
says 1 'kvmod: the policy fullkv is built in: choose a policy from a module'
finish
