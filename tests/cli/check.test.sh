#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check: what it reports of valid and of invalid configurations.
. "${srcdir:-.}/tests/cli/lib.sh"

conf=$tmp/test.conf

# given - the configuration to check, from stdin.
given() {
	cat >"$conf"
	kvmod check -c "$conf"
}

given <<END
[kvmod]
module_path = $build/.libs:$build/tests/cli/.libs
policy = topp
engine = fake

[policy snapkv]
budget = 60%
END
exits 0
: | err
out <<'END'
fine   configuration TMP/test.conf
fine   policy snapkv from BUILD/.libs/snapkv.so
fine   policy topp from BUILD/.libs/topp.so
fine   engine fake from BUILD/tests/cli/.libs/fake.so
END
kvmod check -c "$conf" --json
exits 0
json --only fine:true findings.0.kind=configuration findings.2.name=topp \
	findings.1.fine:true findings.1.code=KVMOD_OK findings.1.seconds:real

# wrong LINE TEXT - one finding, at that line of the configuration.
wrong() {
	exits 1
	: | err
	echo "failed TMP/test.conf:$1: $2" | out
}

given <<'END'
[kvmod]
policy = snapkw
END
wrong 2 'no policy `snapkw`; did you mean `snapkv`?'
given <<'END'
[kvmod]
polcy = snapkv
END
wrong 2 '[kvmod] has no setting `polcy`; did you mean `policy`?'
given <<'END'
[policy snapkv]
budgt = 10
END
wrong 2 '[policy snapkv] has no parameter `budgt`; did you mean `budget`?'
given <<'END'
[policy snapkv]

window = many
END
wrong 3 '[policy snapkv] window = many: expected an integer in 1..4096'
given <<'END'
[policy topp]
p = 1.5
END
wrong 2 '[policy topp] p = 1.5: expected a real number in 0..1'
given <<'END'
[polcy topp]
p = 0.5
END
wrong 1 'unknown section [polcy topp]; did you mean `policy topp`?'
given <<'END'
policy = topp
END
wrong 1 '`policy` stands before any [section]'
kvmod check -c "$tmp/nothing.conf"
exits 1
echo 'failed TMP/nothing.conf: No such file or directory' | out
kvmod check -c /dev/null -o kvmod.policy
exits 1
echo 'failed -o kvmod.policy: expected SECTION.KEY=VALUE' | out

# --- what a run would meet ---------------------------------------------------------

mkdir "$conf.d"
printf '[kvmod]\npolicy = fullkv\n' >"$conf.d/10-right.conf"
: >"$conf.d/20-empty.conf"
given <<END
[kvmod]
module_path = $build/.libs:$build/tests/cli/.libs
policy = gone
engine = fake

[policy nosuchthing]
budget = 3

[alias]
mine = topp
yours = top
END
exits 1
err <<'END'
kvmod: warning: TMP/test.conf:6: no policy `nosuchthing` is installed: its section has no effect
END
out <<'END'
fine   configuration TMP/test.conf
fine   drop-in TMP/test.conf.d/10-right.conf
fine   drop-in TMP/test.conf.d/20-empty.conf
fine   alias mine from BUILD/.libs/topp.so
failed alias yours: TMP/test.conf:11: no policy, engine or device `top`; did you mean `topp`?
fine   policy fullkv
fine   engine fake from BUILD/tests/cli/.libs/fake.so
END
kvmod run -c "$conf" -n 1 --json hello
exits 0
json policy=fullkv
kvmod check -c "$conf" -o alias.yours=topp --policy mine -m "$tmp/no.model" --json
exits 1
json fine:false findings.1.kind=drop-in findings.4.name=yours findings.5.name=topp \
	findings.6.kind=engine findings.6.fine:false \
	findings.6.message="$tmp/no.model: no such model"
rm -r "$conf.d"

# The default engine of run.
kvmod check -c /dev/null -o "kvmod.module_path=$build/tests/cli/.libs"
exits 1
grep -q '^failed engine ggml: no engine `ggml` (looked in ' "$tmp/out" || fail "$(cat "$tmp/out")"

# The examples, with or without the engine that one of them sets up.
for file in "$srcdir"/conf/kvmod.conf.d/*.example; do
	kvmod check -c "$file" -o "kvmod.module_path=:$build/tests/cli/.libs" -o kvmod.engine=fake
	exits 0
done

# An invalid default configuration does not stop list and info.
printf '[kvmod]\npolicy = snapkw\n' >"$KVMOD_CONF"
kvmod info topp
exits 0
has 'file         '
err <<'END'
kvmod: warning: searching only the default module path: TMP/kvmod.conf:2: no policy `snapkw`; did you mean `snapkv`?
END
kvmod run hello
says 1 'kvmod: TMP/kvmod.conf:2: no policy `snapkw`; did you mean `snapkv`?'
finish
