#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Devices, on a made-up GPU: what the commands report, and policies that run there.
. "${srcdir:-.}/tests/cli/lib.sh"

mkdir "$tmp/modules"
cp "$build/tests/modules/.libs/gpu.so" "$tmp/modules/cuda.so"
cp "$build/tests/modules/.libs/good.so" "$build/tests/cli/.libs/fake.so" "$tmp/modules"

# given - the configuration, from stdin; then `kvmod check` of it.
given() {
	{
		printf '[kvmod]\nmodule_path = %s\nengine = fake\n' "$tmp/modules"
		cat
	} >"$KVMOD_CONF"
	kvmod check
	sed -i 's/ from .*//' "$tmp/out"
}

# --- list and info ---------------------------------------------------------------

given </dev/null
kvmod list
exits 0
: | err
out <<'END'
MODULE           VERSION   PROVIDES                   ON        DESCRIPTION
cuda             1.0       policy positive            cuda      a made-up GPU, for tests
                           policy good                cuda
                           device cuda                -
fake             1.0       engine fake                -         an engine without a model, for tests
good             1.0       policy good                cpu       for tests
-                0.2.0     policy fullkv              any       keeps everything; built in
                           device cpu                 -
END
kvmod list policies
printf 'fullkv\npositive\ngood\n' | out
kvmod list devices
printf 'cpu\ncuda\n' | out
kvmod list --json
json modules.0.on.1=cuda modules.0.devices.0=cuda modules.2.on.0=cpu

kvmod info cuda
exits 0
has 'built for    no GPU at all: sm_00'
has '[policy positive] on cuda'
has '[device cuda]'
# Both versions, that of the module by that name first.
kvmod info good
exits 0
grep '^\[\|^name' "$tmp/out" >"$tmp/tidy" && mv "$tmp/tidy" "$tmp/out"
out <<'END'
name         good
[policy good] on cpu
name         cuda
[policy positive] on cuda
[policy good] on cuda
[device cuda]
END
kvmod info good --json
json name=good provides.0.devices.0=cpu others.0.name=cuda \
	others.0.built_for.0='no GPU at all: sm_00' others.0.provides.1.devices.0=cuda

# --- check -----------------------------------------------------------------------

given <<'END'
policy = positive
device = cuda
[policy good]
sinks = 3
END
exits 0
: | err
out <<'END'
fine   configuration TMP/kvmod.conf
fine   policy good
fine   policy positive
fine   engine fake
fine   device cuda
END
# auto takes a device that exists; a missing device that nobody uses is no error.
given <<'END'
[policy positive]
[device cuda]
broken = yes
END
exits 0
err <<'END'
kvmod: note: policy positive is not tried: device cuda: no GPU here
kvmod: note: device cuda is not tried: device cuda: no GPU here
END
given <<'END'
policy = positive
[device cuda]
broken = yes
END
exits 1
has 'failed policy positive: device cuda: no GPU here'
given <<'END'
device = cuda
[device cuda]
broken = yes
END
exits 1
has 'failed device cuda: no GPU here'
# Nor is a policy that is not in use, whatever device it is for.
given <<'END'
device = cpu
[policy positive]
[device cuda]
broken = yes
END
exits 0
err <<'END'
kvmod: note: policy positive is not tried: device cuda: no GPU here
kvmod: note: device cuda is not tried: device cuda: no GPU here
END
cp "$build/tests/modules/.libs/later.so" "$tmp/modules"
given <<'END'
device = cuda
policy = positive
[policy later]
END
exits 0
: | err
rm "$tmp/modules/later.so"
given <<'END'
device = gpu
END
exits 1
has "failed $tmp/kvmod.conf:4: no device \`gpu\`; did you mean \`cpu\`? (installed: cpu, cuda)"

# --- another device ----------------------------------------------------------------

# A module brings the device and policies for it; the core does not contain its name.
cp "$build/tests/modules/.libs/npu.so" "$tmp/modules"
given <<'END'
policy = positive
device = npu
END
exits 0
: | err
out <<'END'
fine   configuration TMP/kvmod.conf
fine   policy positive
fine   engine fake
fine   device npu
END
kvmod list devices
printf 'cpu\ncuda\nnpu\n' | out
kvmod list --json
json modules.3.name=npu modules.3.on.0=npu modules.3.devices.0=npu
kvmod info npu
exits 0
has '[policy positive] on npu'
kvmod run -o kvmod.leave_below=0 --policy good -o kvmod.device=npu -n 1 --json 'to be kept or not'
exits 0
json device=npu kept.0.0:integer
kvmod selftest -o "kvmod.module_path=$tmp/modules" positive --device npu --json
exits 0
json failures:array
kvmod selftest -o "kvmod.module_path=$tmp/modules" positive --device npv
says 1 'kvmod: -o kvmod.device=npv: no device `npv`; did you mean `npu`? (installed: cpu, cuda, npu)'
given <<'END'
device = npv
END
exits 1
has "failed $tmp/kvmod.conf:4: no device \`npv\`; did you mean \`npu\`? (installed: cpu, cuda, npu)"
# Of the other policies only those that need no rows run there.
kvmod run -o kvmod.leave_below=0 --policy fullkv -o kvmod.device=npu -n 1 --json hello
exits 0
json device=npu
rm "$tmp/modules/npu.so"

# --- selftest ----------------------------------------------------------------------

given </dev/null
cat >"$tmp/positive.vectors" <<'END'
case half
policy positive
shape layers=1 n=4 q_heads=1 kv_heads=1 head_dim=8 rows=0
k 1 0 0 0 0 0 0 0 -1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0 -3 0 0 0 0 0 0 0
expect layer=0 head=0 count=3 positions=0,2,3
end
END
kvmod selftest -o "kvmod.module_path=$tmp/modules" positive --device cuda \
	--vectors "$tmp/positive.vectors" --json
exits 0
json vectors=1 vectors_passed=1
kvmod selftest -o "kvmod.module_path=$tmp/modules" positive
says 1 'kvmod: no module, policy or engine `positive` for cpu'
kvmod selftest -o "kvmod.module_path=$tmp/modules" good --json
exits 0
json file:string
kvmod selftest -o "kvmod.module_path=$tmp/modules" cuda
exits 0
err <<'END'
kvmod: note: policy positive runs on cuda and is not tested on cpu (see --device)
kvmod: note: policy good runs on cuda and is not tested on cpu (see --device)
END

# --- run -----------------------------------------------------------------------------

# The engine's cache is on the host.
kvmod run -o kvmod.leave_below=0 --policy positive -n 1 'to be kept or not'
exits 0
head -n 2 "$tmp/err" >"$tmp/tidy"
grep '^policy' "$tmp/err" | sed 's/:.*//' >>"$tmp/tidy"
mv "$tmp/tidy" "$tmp/err"
err <<'END'
kvmod: note: policy `positive` has no version for cpu; policy positive runs on cuda
kvmod: note: policy positive runs on cuda; copied there from cpu: layer 0-3
policy   positive on cuda
END
kvmod run -o kvmod.leave_below=0 --policy good -o kvmod.device=cuda -n 1 --json 'to be kept or not'
exits 0
json device=cuda kept.0.0:integer
kvmod run -o kvmod.leave_below=0 --policy good -o kvmod.device=cuda -o 'device cuda.broken=yes' hello
says 1 'kvmod: device cuda: no GPU here'
kvmod run -o kvmod.leave_below=0 --policy good -o 'device cuda.broken=yes' -n 1 --json hello
exits 0
json device=cpu
finish
