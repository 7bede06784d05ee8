#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Common mistakes: each message suggests what the user meant to write.
. "${srcdir:-.}/tests/cli/lib.sh"

# typed OPTION MESSAGE - `run -o OPTION` fails with the message.
typed() {
	kvmod run -o "$1" hello
	says 1 "kvmod: -o $1: $2"
}

# written MESSAGE - the configuration on stdin is refused with the message.
written() {
	cat >"$tmp/own.conf"
	kvmod list -c "$tmp/own.conf"
	says 1 "kvmod: TMP/own.conf:$1"
}

# --- sections and keys -----------------------------------------------------------

typed snapkv.budget=20% 'unknown section [snapkv]; did you mean `policy snapkv`?'
typed snapvk.budget=20% 'unknown section [snapvk]; did you mean `policy snapkv`?'
typed fake.context=64 'unknown section [fake]; did you mean `engine fake`?'
typed cpu.x=1 'unknown section [cpu]; did you mean `device cpu`?'
typed policy.snapkv.budget=20% 'unknown section [policy.snapkv]; did you mean `policy snapkv`?'
typed polcy.budget=20% 'unknown section [polcy]; did you mean `policy`?'
typed nothing-like-it.x=1 'unknown section [nothing-like-it]'
typed threads=2 'expected SECTION.KEY=VALUE; did you mean `kvmod.threads=2`?'
typed policy=snapkv 'expected SECTION.KEY=VALUE; did you mean `kvmod.policy=snapkv`?'
typed budget=20% 'expected SECTION.KEY=VALUE'
written '1: unknown section [snapkv]; did you mean `policy snapkv`?' <<'END'
[snapkv]
budget = 20%
END
written '1: unknown section [policy:snapkv]; did you mean `policy snapkv`?' <<'END'
[policy:snapkv]
END
written '2: expected `policy = value`, with `=` and not `:`' <<'END'
[kvmod]
policy: fullkv
END
written '3: expected `module_path = value`, with `=` and not `:`' <<'END'
[kvmod]
threads = 1
module_path: /there=1
END
# In a value it is an ordinary character.
printf '[blacklist]\nthing = see: a=b\n' >"$tmp/own.conf"
kvmod list -c "$tmp/own.conf" engines
exits 0

# --- amounts -----------------------------------------------------------------------

for budget in 120% 1.5 100.5% 516.0; do
	typed "policy snapkv.budget=$budget" 'must be between 0 and 100% (1.0); a count has neither point nor percent sign'
done
typed 'policy snapkv.budget=-5%' 'expected a fraction such as 0.25 or 25%, or a count such as 1024, of at least 0'
typed 'policy snapkv.budget=few' 'expected a fraction such as 0.25 or 25%, or a count such as 1024, of at least 0'

# --- module_path without the usual folder --------------------------------------------

mkdir "$tmp/mine"
cp "$build/tests/cli/.libs/fake.so" "$tmp/mine"
typed() {
	kvmod run -o "kvmod.module_path=$tmp/mine" "$@" hello
}
hint='(looked in TMP/mine): the usual folder has it; end module_path with a `:` to look there too'
typed --policy snapkv
says 1 "kvmod: -o kvmod.policy=snapkv: no policy \`snapkv\` $hint"
typed --policy snapkw
says 1 'kvmod: -o kvmod.policy=snapkw: no policy `snapkw`'
if [ -f .libs/ggml.so ]; then
	typed -o kvmod.engine=ggml
	says 1 "kvmod: no engine \`ggml\` $hint"
fi
printf '[policy snapkv]\nbudget = 9\n' >"$tmp/own.conf"
kvmod list -c "$tmp/own.conf" -o "kvmod.module_path=$tmp/mine" engines
exits 0
err <<END
kvmod: warning: TMP/own.conf:1: [policy snapkv] has no effect: no policy \`snapkv\` $hint
END
kvmod run -o "kvmod.module_path=$tmp/mine:" --policy snapkv -n 1 --json hello
exits 0
json policy=snapkv

# --- aliases ----------------------------------------------------------------------------

kvmod info -o alias.mine=topp mine --json
exits 0
json name=topp
kvmod info -o alias.mine=top mine
says 1 'kvmod: no module, policy or engine `top`, which the alias `mine` stands for; did you mean `topp`?'
kvmod selftest -o "kvmod.module_path=:" -o alias.mine=topp mine --json
exits 0
json file:string
kvmod run -o alias.mine=top --policy mine hello
says 1 'kvmod: -o kvmod.policy=mine: no policy `top`, which the alias `mine` stands for; did you mean `topp`?'
for name in fullkv cpu; do
	kvmod info $name
	says 1 "kvmod: \`$name\` is built in: no module provides it"
done

# --- numbers and the environment -----------------------------------------------------------

for n in -1 1.5 many 99999999999999999999; do
	kvmod run --tokens=$n hello
	says 2 "kvmod: --tokens=$n: expected a whole number, such as 512 or 4k (see \`kvmod run --help\`)"
done
KVMOD_SIMD=avx3
export KVMOD_SIMD
said='kvmod: warning: KVMOD_SIMD=avx3 has no effect: expected scalar, avx2 or avx512'
kvmod run -n 1 --json hello
exits 0
echo "$said" | err
# Each of these is opened in its own process.
kvmod check --policy snapkv -o 'policy topp.p=0.5'
exits 0
echo "$said" | err
for KVMOD_SIMD in '' scalar avx2 avx512; do
	kvmod run -n 1 --json hello
	exits 0
	: | err
done

# The configuration is read twice for -m, and warned about once.
printf '[policy gone]\nx = 1\n' >>"$KVMOD_CONF"
for command in 'run -n 1 --json hello' check; do
	kvmod $command -m /dev/null
	exits 0
	err <<'END'
kvmod: warning: TMP/kvmod.conf:5: no policy `gone` is installed: its section has no effect
END
done
# Also where -m has the configuration read once more.
for command in 'run -n 1 hello -m /dev/null' 'check -m /dev/null'; do
	kvmod $command -o kvmod.threads=1024
	[ "$(grep -c 'threads = 1024, but this process may use' "$tmp/err")" -eq 1 ] ||
		fail "no word of too many threads, or two: $(cat "$tmp/err")"
done
finish
