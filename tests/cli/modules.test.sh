#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# list and info: the metadata of modules, and what is wrong with some files.
. "${srcdir:-.}/tests/cli/lib.sh"

mkdir "$tmp/modules"
cp "$build/tests/cli/.libs/fake.so" "$build/.libs/topp.so" "$tmp/modules"
echo 'not a module' >"$tmp/modules/broken.so"
cp "$build/.libs/random.so" "$tmp/modules/open.so"
chmod 666 "$tmp/modules/open.so"
path="kvmod.module_path=$tmp/modules"

kvmod list -c /dev/null -o "$path"
exits 0
: | err
sed -i 's/: .*//; s/  *$//' "$tmp/out"
out <<'END'
MODULE           VERSION   PROVIDES                   ON        DESCRIPTION
broken.so        refused
fake             1.0       engine fake                -         an engine without a model, for tests
open.so          refused
topp             0.2.0     policy topp                cpu       the heaviest positions that hold p of the attention (2502.02770)
-                0.2.0     policy fullkv              any       keeps everything; built in
                           device cpu                 -
END

kvmod list -c /dev/null -o "$path" policies
exits 0
out <<'END'
fullkv
topp
END
kvmod list -c /dev/null -o "$path" engines
out <<'END'
fake
END
kvmod list -c /dev/null -o "$path" modules
out <<'END'
fake
topp
END
kvmod list -c /dev/null -o "$path" --json
exits 0
json modules.0.error:string modules.1.name:string \
	modules.1.engines.0:string modules.3.policies.0:string

# A blacklisted module is left out, with a message.
why='blacklist.topp=only for experiments'
kvmod list -c /dev/null -o "$path" -o "$why"
exits 0
: | err
has 'topp             blacklisted: only for experiments'
grep -q 'policy topp' "$tmp/out" && fail 'policy topp is there all the same'
for kind in policies modules; do
	kvmod list -c /dev/null -o "$path" -o "$why" $kind
	exits 0
	grep -qx topp "$tmp/out" && fail "topp is among the $kind"
	err <<-'END'
	kvmod: note: module `topp` is left out, because it is blacklisted: only for experiments
	END
done
kvmod list -c /dev/null -o "$path" -o "$why" engines
echo fake | out
: | err
kvmod list -c /dev/null -o "$path" -o "$why" --json
json modules.3.blacklisted='only for experiments' modules.3.name=topp
grep -qF '"policies": ["topp"' "$tmp/json" && fail 'policy topp is there all the same'
kvmod info -c /dev/null -o "$path" -o "$why" --json topp
json name=topp blacklisted='only for experiments'
kvmod info -c /dev/null -o "$path" -o "$why" topp
exits 0
has 'blacklisted  only for experiments'

mkdir "$tmp/empty"
kvmod list -c /dev/null -o "kvmod.module_path=$tmp/empty"
says 1 'kvmod: no modules in TMP/empty: only the built-in policy fullkv is available'

# --- info ------------------------------------------------------------------------

kvmod info -c /dev/null -o "$path" fake
exits 0
: | err
out <<'END'
file         TMP/modules/fake.so
name         fake
version      1.0
license      Apache-2.0
author       kvmod
description  an engine without a model, for tests
abi          2.0

[engine fake]
  PARAMETER        TYPE    DEFAULT      RANGE            HELP
  broken           choice  nothing      nothing|request|apply|text|chat which call fails
  context          int     4096         1..1048576       longest sequence, in tokens
  context_override bool    no           -                let decoding go past the context
  delay            int     0            0..10000         milliseconds that a text takes, or a chunk of tokens
  device           string  -            -                the device to say that the layers are on
  model            path    -            -                a file that must be there, if any is named
  notes            path    -            -                a file that gets a line for each prompt, and for what is read or run again
  repeat           int     1            1..1048576       how many times the byte of a token stands in its text
  replay           choice  no           no|yes|fails|nan can it run tokens again?
  threads          int     0            0..512           taken as other engines do; one does it all
END
cd "$tmp/modules" || exit 99
kvmod info -c /dev/null ./fake.so --json
cd "$build" || exit 99
exits 0
json file:string name:string provides.0.kind=engine \
	provides.0.parameters.1.default=4096

kvmod info -c /dev/null -o "$path" fakee
says 1 'kvmod: no module, policy or engine `fakee`; did you mean `fake`?'
kvmod info -c /dev/null ./nothing.so
says 1 'kvmod: ./nothing.so: No such file or directory'
kvmod info -c /dev/null "$tmp/modules/broken.so"
exits 1
grep -q '^kvmod: .*broken.so' "$tmp/err" || fail "broken.so is not named: $(cat "$tmp/err")"
kvmod info -c /dev/null "$tmp/modules/open.so"
exits 1
grep -q '^kvmod: .*open.so.*writ' "$tmp/err" || fail "no word of its mode: $(cat "$tmp/err")"
finish
