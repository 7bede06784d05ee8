#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench decision: small caches, since it is the figures' form that is looked at.
. "${srcdir:-.}/tests/cli/lib.sh"

# Figures differ from run to run.
figures() {
	sed 's/[0-9.]* ([0-9.]* to [0-9.]*) */N (N to N) /g; s/  *[0-9.]*  *\([0-9.]*%\)$/ N \1/'
}

small='--layers 3 --rounds 9 --lengths 300,500'

kvmod bench decision $small --policy refreekv -o 'policy refreekv.threshold=1'
exits 0
: | err
figures <"$tmp/out" >"$tmp/figures"
mv "$tmp/figures" "$tmp/out"
out <<'END'
policy refreekv, 3 layers, 32 query heads on 8 KV heads of 128, f16, 2 threads, 9 rounds
POSITIONS  K          DECISION, ms               PLAIN PASS, ms              RATIO    KEPT
300        1.76 MiB   N (N to N) N (N to N) N 67.2%
500        2.93 MiB   N (N to N) N (N to N) N 67.0%
END

# Every policy that runs here, with all that it needs.
for policy in fullkv streamingllm random snapkv adakv topp; do
	kvmod bench decision $small --policy $policy --json
	exits 0
	json policy:string threads:integer comparisons.0.length:integer \
		comparisons.0.k_bytes:integer comparisons.0.decision_ms.median:real \
		comparisons.1.read_ms.high:real comparisons.1.ratio:real comparisons.1.budget:real
done
for type in f32 bf16 q8_0; do
	kvmod bench decision $small --policy refreekv --dtype $type --q-heads 9 --kv-heads 3 --head-dim 64
	exits 0
done

kvmod bench decision --dtype f8
says 2 'kvmod: --dtype f8: expected f32, f16, bf16 or q8_0 (see `kvmod bench decision --help`)'
kvmod bench decision --kv-heads 5
says 2 'kvmod: 32 query heads cannot share 5 KV heads evenly (see `kvmod bench decision --help`)'
kvmod bench decision --dtype q8_0 --head-dim 40
says 2 'kvmod: --dtype q8_0 has blocks of 32: --head-dim 40 is no multiple (see `kvmod bench decision --help`)'
kvmod bench decision --rounds 8
says 2 'kvmod: --rounds 8: expected 9 to 1000 (see `kvmod bench decision --help`)'
kvmod bench decision --lengths 0
says 2 'kvmod: --lengths 0: expected 1 to 16777216 (see `kvmod bench decision --help`)'
many=$(for i in $(seq 64); do printf -- '-o kvmod.log_level=note '; done)
kvmod bench decision $small $many
says 1 'kvmod: more than 63 of -o'
kvmod bench decision fast
says 2 'kvmod: `fast`: no operand was expected (see `kvmod bench decision --help`)'
kvmod bench decision --policy nonesuch
says 1 'kvmod: -o kvmod.policy=nonesuch: no policy `nonesuch`'

# A cache that cannot fit is refused before any of it is filled.
kvmod bench decision --layers 1024 --lengths 16777216
exits 1
sed -i 's/and .* of memory/and N of memory/' "$tmp/err"
err <<'END'
kvmod: a cache of 16777216 positions takes 32.00 TiB, and N of memory are available: give shorter --lengths or fewer --layers
END

finish
