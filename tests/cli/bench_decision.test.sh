#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench decision, on small caches: only the form of the figures is tested.
. "${srcdir:-.}/tests/cli/lib.sh"

# Figures differ from run to run.
figures() {
	sed 's/[0-9.]* ([0-9.]* to [0-9.]*) */N (N to N) /g; s/  *[0-9.]*  *\([0-9.]*%\) / N \1 /
		s/the [0-9.]* ms of/the N ms of/'
}

small='--layers 3 --rounds 9 --lengths 300,500'

kvmod bench decision $small --policy refreekv -o 'policy refreekv.threshold=1'
exits 0
: | err
figures <"$tmp/out" >"$tmp/figures"
mv "$tmp/figures" "$tmp/out"
out <<'END'
policy refreekv, 3 layers, 32 query heads on 8 KV heads of 128, f16, 2 threads, 9 rounds
POSITIONS  K          DECISION, ms               PLAIN PASS, ms              RATIO    KEPT      WHOLE
300        1.76 MiB   N (N to N) N (N to N) N 67.2%     2 of 3
500        2.93 MiB   N (N to N) N (N to N) N 67.0%     2 of 3
END

# Every policy that runs here, with all that it needs.
for policy in fullkv streamingllm random snapkv adakv topp pyramidkv cake criticalkv defensivekv \
	contribution expected keydiff lagkv h2o knorm rkv tova duo; do
	kvmod bench decision $small --policy $policy --json
	exits 0
	json policy:string threads:integer comparisons.0.length:integer \
		comparisons.0.k_bytes:integer comparisons.0.decision_ms.median:real \
		comparisons.1.rival_ms.high:real comparisons.1.ratio:real comparisons.1.budget:real
done
# A window of queries is compared with their product with K.
kvmod bench decision $small --policy snapkv -o 'policy snapkv.window=16'
exits 0
: | err
figures <"$tmp/out" | sed 's/\( [0-9]* of [0-9]*\)  *[0-9.]*  *[0-9.]*$/\1 N N/' >"$tmp/figures"
mv "$tmp/figures" "$tmp/out"
out <<'END'
policy snapkv, 3 layers, 32 query heads on 8 KV heads of 128, f16, 2 threads, 9 rounds
against the product of 16 rows of queries, 32 heads each, with K, by kvmod's own kernels
POSITIONS  K          DECISION, ms               PRODUCT, ms                 RATIO    KEPT      WHOLE     GMAC/S     PEAK
300        1.76 MiB   N (N to N) N (N to N) N 25.0%     0 of 3 N N
500        2.93 MiB   N (N to N) N (N to N) N 25.0%     0 of 3 N N
END
# GMAC/s are the multiply-adds of 3 layers x 32 heads x 16 rows x 300 keys x 128 over the time.
kvmod bench decision --layers 3 --rounds 9 --lengths 300 --policy snapkv -o 'policy snapkv.window=16' --json
exits 0
json rival=product comparisons.0.gmacs:real comparisons.0.peak_gmacs:real
tr -d ' \n' <"$tmp/out" | sed 's/.*"decision_ms":{"median":\([^,]*\),.*"gmacs":\([^,]*\),.*/\1 \2/' |
	awk '{ x = 3 * 32 * 16 * 300 * 128 / 1e6 / $1 / $2; exit !(x > 0.999 && x < 1.001) }' ||
	fail "gmacs is not what decision_ms says: $(cat "$tmp/out")"
# The product is computed: no processor does it in a fraction of the time that its peak allows.
tr -d ' \n' <"$tmp/out" | sed 's/.*"rival_ms":{"median":\([^,]*\),.*"peak_gmacs":\([^,}]*\)[,}].*/\1 \2/' |
	awk '{ x = 3 * 32 * 16 * 300 * 128 / 1e6 / $1 / $2; exit !(x > 0 && x < 4) }' ||
	fail "the product takes no time: $(cat "$tmp/out")"
# Four rows are few, five are not.
for rows in 4:read 5:product; do
	kvmod bench decision --layers 1 --rounds 9 --lengths 64 --policy refreekv \
		-o "policy refreekv.rows=${rows%:*}" --json
	exits 0
	json rival="${rows#*:}"
done
# Several sequences are one request.
kvmod bench decision $small --policy refreekv --batch 2 --json
exits 0
json batch=2 comparisons.0.sequences=2 comparisons.0.k_bytes=3686400 \
	comparisons.0.whole_segments=4 comparisons.0.wall_ms.median:real device=cpu
for type in f32 bf16 q8_0; do
	kvmod bench decision $small --policy refreekv --dtype $type --q-heads 9 --kv-heads 3 --head-dim 64
	exits 0
done

# Growth: with sizes as small as these, the sweep reports none.
sweep='--sweep --layers 2 --batch 2 --lengths 16 --policy refreekv'
kvmod bench decision $sweep
exits 0
figures <"$tmp/out" | sed 's/only [0-9] of/only N of/' >"$tmp/figures"
mv "$tmp/figures" "$tmp/out"
out <<'END'
policy refreekv, 32 query heads on 8 KV heads of 128, f16, 2 threads, 9 rounds
LAYERS  SEQUENCES  POSITIONS  K          DECISION, ms               PLAIN PASS, ms              RATIO    KEPT      WHOLE
2       1          16         64.00 KiB  N (N to N) N (N to N) N 100.0%     2 of 2
positions: no exponent, because only N of 1 sizes take more than 4 times the N ms of 16 positions
1       1          16         32.00 KiB  N (N to N) N (N to N) N 100.0%     1 of 1
2       1          16         64.00 KiB  N (N to N) N (N to N) N 100.0%     2 of 2
layers: no exponent, because only N of 2 sizes take more than 4 times the N ms of 16 positions
2       1          16         64.00 KiB  N (N to N) N (N to N) N 100.0%     2 of 2
2       2          16         128.0 KiB  N (N to N) N (N to N) N 100.0%     4 of 4
sequences: no exponent, because only N of 2 sizes take more than 4 times the N ms of 16 positions
END
# From 32 to 16384 positions the work outgrows the rest.
kvmod bench decision --sweep --layers 1 --batch 1 --lengths 32,16384 --threads 1 \
	--policy refreekv -o 'policy refreekv.whole_layers=0' --json
exits 0
json comparisons.0.length=32 comparisons.9.length=16384 growth.0.over=positions \
	growth.0.least_ms:real growth.0.to=16384 growth.0.decision_exponent:real \
	growth.0.rival_exponent:real growth.1.over=layers growth.2.over=sequences growth.2.points:integer \
	batch=1 comparisons.11.sequences=1

# Without a GPU or a module for one: one line has the reason.
for command in decision gather; do
	kvmod bench $command --device cuda --layers 1 --lengths 64
	if [ "$status" -ne 0 ]; then
		exits 1
		: | out
		[ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "not one line: $(cat "$tmp/err")"
		grep -q '^kvmod: .*cuda' "$tmp/err" || fail "another reason: $(cat "$tmp/err")"
	fi
done
kvmod bench decision --device tpu
exits 1
grep -q '^kvmod: .*`tpu`' "$tmp/err" || fail "another reason: $(cat "$tmp/err")"
kvmod bench decision --batch 0
says 2 'kvmod: --batch=0: expected 1 to 1024 (see `kvmod bench decision --help`)'

kvmod bench decision --dtype f8
says 2 'kvmod: --dtype=f8: expected f32, f16, bf16, q8_0 or q4_0 (see `kvmod bench decision --help`)'
kvmod bench decision --kv-heads 5
says 2 'kvmod: 32 query heads: expected a multiple of the 5 KV heads (see `kvmod bench decision --help`)'
kvmod bench decision --dtype q8_0 --head-dim 40
says 2 'kvmod: --head-dim=40: expected a multiple of 32, the block size of q8_0 (see `kvmod bench decision --help`)'
kvmod bench decision --rounds 8
says 2 'kvmod: --rounds=8: expected 9 to 1000 (see `kvmod bench decision --help`)'
kvmod bench decision --lengths 0
says 2 'kvmod: --lengths=0: expected 1 to 16777216 (see `kvmod bench decision --help`)'
many=$(for i in $(seq 64); do printf -- '-o kvmod.log_level=note '; done)
kvmod bench decision $small $many
says 1 'kvmod: -o: given more than 63 times'
kvmod bench decision fast
says 2 'kvmod: unexpected operand `fast` (see `kvmod bench decision --help`)'
kvmod bench decision --policy nonesuch
says 1 'kvmod: -o kvmod.policy=nonesuch: no policy `nonesuch`'

# A cache that cannot fit is refused before any of it is filled.
kvmod bench decision --layers 1024 --lengths 16777216
exits 1
sed -i 's/but .* of memory/but N of memory/' "$tmp/err"
err <<'END'
kvmod: a cache of 16777216 positions takes 32.00 TiB, but N of memory are available: give shorter --lengths or fewer --layers
END

finish
