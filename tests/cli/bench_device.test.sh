#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Benchmarks on a device: a made-up one, which checks that all pointers that it gets are
# to its memory.
. "${srcdir:-.}/tests/cli/lib.sh"

# bench COMMAND ARGUMENT...
bench() {
	command=$1
	shift
	kvmod bench "$command" --device cuda -o "kvmod.module_path=$build/tests/cli/device/.libs" \
		-o kvmod.engine=none "$@"
}

# Figures differ from run to run.
figures() {
	sed 's/[0-9.]* ([0-9.]* to [0-9.]*) */N (N to N) /g; s/  *[0-9.]*  *\([0-9.]*%\) / N \1 /
		s/  *[0-9.]*$/ N/; s/the [0-9.]* ms of/the N ms of/; s/only [0-9] of/only N of/
		s/^\([a-z]*: the decision grows\).*/\1 N/' "$tmp/out" >"$tmp/figures"
	mv "$tmp/figures" "$tmp/out"
}

small='--policy newest --layers 3 --kv-heads 2 --q-heads 4 --head-dim 64'

bench decision $small --lengths 100,101 --batch 2
exits 0
: | err
figures
out <<'END'
policy newest on cuda, 3 layers of 2 sequences, 4 query heads on 2 KV heads of 64, f16, 9 rounds
POSITIONS  K          DECISION, ms                   PLAIN READ, ms                  RATIO    KEPT      WHOLE  WALL, ms
100        150.0 KiB  N (N to N) N (N to N) N 66.7%     2 of 6 N
101        151.5 KiB  N (N to N) N (N to N) N 67.0%     2 of 6 N
END
bench decision $small --dtype q8_0 --lengths 33 --json
exits 0
json device=cuda dtype=q8_0 comparisons.0.k_bytes=13464 comparisons.0.decision_ms.median:real \
	comparisons.0.rival_ms.median:real comparisons.0.wall_ms.median:real \
	comparisons.0.whole_segments=1

# The series end when memory runs out.
bench decision $small -o 'device cuda.memory=520' --sweep --lengths 1024,8192 --batch 16 --json
exits 0
json batch=16 comparisons.0.length=1024 growth.0.over=positions growth.0.stopped_at=8192 \
	growth.0.why:string growth.1.over=layers growth.2.over=sequences growth.2.stopped_at=8
bench decision $small -o 'device cuda.memory=520' --lengths 65536
exits 1
sed 's/but [0-9.]* .iB/but N/' "$tmp/err" >"$tmp/figures" && mv "$tmp/figures" "$tmp/err"
err <<'END'
kvmod: a cache of 65536 positions takes 353.5 MiB, but N of the device's memory are available: give shorter --lengths or fewer --layers
END
bench decision $small -o 'device cuda.memory=100'
says 1 "kvmod: the pretended memory is used up"

bench gather --layers 2 --kv-heads 3 --head-dim 64 --lengths 50 --keep 0.3 --json
exits 0
json device=cuda comparisons.0.kept=15 comparisons.0.by=spans comparisons.1.by=lists \
	comparisons.1.gather_ms.median:real comparisons.1.copy_ms.median:real

# A device that cannot time, or cannot read for comparison.
for timing in none short no_call; do
	for command in decision gather; do
		bench $command -o "device cuda.timing=$timing"
		says 1 'kvmod: the device cuda has no clock to measure with'
	done
done
bench gather --lengths 50 --json -o 'device cuda.timing=mute'
says 1 'kvmod: device cuda: elapsed() failed: KVMOD_EDEVICE'
bench decision $small -o 'device cuda.timing=no_read'
says 1 'kvmod: the device cuda has no plain read to measure against'
bench gather --layers 2 --kv-heads 3 --head-dim 64 --lengths 50 -o 'device cuda.timing=no_read' --json
exits 0
json comparisons.0.gather_ms.median:real

# An engine that claims to be on the device, but is on the host.
dd if=/dev/zero of="$tmp/model" bs=1000 count=1000 2>/dev/null
kvmod bench engine -o "kvmod.module_path=$build/tests/cli/.libs:$build/tests/cli/device/.libs" \
	-m "$tmp/model" -o 'engine fake.device=cuda' --rival fake --lengths 100 --decode 4 --prompts 1
exits 0
: | err
has 'engine fake (cuda, 4 of 4 layers) against fake (cuda, 4 of 4 layers), policy fullkv (c'
has "GB/s; the model's file has 976.6 KiB"
has ' ms for 1.15 MiB of weights and cache: '
has 'free on the device: 3.75 GiB before the decision and the cut, 3.75 GiB after'
finish
