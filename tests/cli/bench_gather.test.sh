#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench gather, on small caches on the host: only the form of the figures is tested.
. "${srcdir:-.}/tests/cli/lib.sh"

# Figures differ from run to run.
figures() {
	sed 's/[0-9.]* ([0-9.]* to [0-9.]*) */N (N to N) /g; s/  *[0-9.]*  *[0-9.]*%$/ N N/'
}

kvmod bench gather --layers 2 --lengths 100,333
exits 0
: | err
figures <"$tmp/out" >"$tmp/figures"
mv "$tmp/figures" "$tmp/out"
out <<'END'
gather on cpu, K and V of 2 layers, 8 KV heads of 128, f16, 9 rounds
POSITIONS  KEPT       BYTES      BY     GATHER, ms                   COPY, ms                          GB/s OF A COPY
100        50         400.0 KiB  spans  N (N to N) N (N to N) N N
100        50         400.0 KiB  lists  N (N to N) N (N to N) N N
333        166        1.30 MiB   spans  N (N to N) N (N to N) N N
333        166        1.30 MiB   lists  N (N to N) N (N to N) N N
END

kvmod bench gather --layers 1 --batch 3 --kv-heads 3 --head-dim 64 --dtype q8_0 --keep 0.25 \
	--lengths 10,1 --json
exits 0
json --only device=cpu dtype=q8_0 layers=1 batch=3 kv_heads=3 head_dim=64 keep=0.25 rounds=9 \
	comparisons.0.length=10 comparisons.0.kept=2 comparisons.0.kept_bytes=2448 \
	comparisons.0.by=spans comparisons.1.by=lists comparisons.0.gather_ms.median:real \
	comparisons.1.copy_ms.high:real comparisons.1.gb_per_s:real comparisons.1.of_copy:real \
	comparisons.2.length=1 comparisons.2.kept=1 comparisons.3.by=lists

kvmod bench gather --keep 0
says 2 'kvmod: --keep=0: expected a number above 0 and at most 1 (see `kvmod bench gather --help`)'
kvmod bench gather --keep 2
says 2 'kvmod: --keep=2: expected a number above 0 and at most 1 (see `kvmod bench gather --help`)'
kvmod bench gather --kv-heads 0
says 2 'kvmod: --kv-heads=0: expected 1 to 1024 (see `kvmod bench gather --help`)'
kvmod bench gather --rounds 8
says 2 'kvmod: --rounds=8: expected 9 to 1000 (see `kvmod bench gather --help`)'
kvmod bench gather fast
says 2 'kvmod: unexpected operand `fast` (see `kvmod bench gather --help`)'

# A cache that cannot fit is refused before any of it is filled.
kvmod bench gather --layers 1024 --lengths 16777216
exits 1
sed -i 's/but [0-9].* of memory/but N of memory/' "$tmp/err"
err <<'END'
kvmod: a cache of 16777216 positions and what is kept take 96.06 TiB, but N of memory are available: give shorter --lengths or fewer --layers
END
finish
