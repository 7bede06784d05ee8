#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# new: a policy that builds, passes its own test, and runs; no file is overwritten.
. "${srcdir:-.}/tests/cli/lib.sh"

unset MAKEFLAGS MFLAGS MAKELEVEL
CC=$(sed -n 's/^CC = //p' Makefile)
cd "$tmp" || exit 99

kvmod new mine
exits 0
: | err
out <<'END'
mine/mine.c
mine/Makefile
mine/mine.vectors
mine/README.md
END
! grep -rq '@[A-Z]*@' mine || fail 'a placeholder is left'
kvmod new mine
says 1 'kvmod: mine/mine.c already exists: nothing was written'
mkdir other
echo 'all: keep me' >other/Makefile
kvmod new other --dir other
says 1 'kvmod: other/Makefile already exists: nothing was written'
[ "$(ls other)" = Makefile ] || fail "something was written: $(ls other)"
kvmod new another -d "$tmp/no/such"
says 1 'kvmod: TMP/no/such: No such file or directory'
for name in '' 9lives With-Caps a.b ../up; do
	kvmod new "$name"
	says 2 "kvmod: \`$name\`: expected a letter a-z, then a-z, 0-9 and _, at most 32 characters in all (see \`kvmod new --help\`)"
done
kvmod new libkvmod_mine
says 2 'kvmod: `libkvmod_mine`: names that begin with libkvmod are reserved (see `kvmod new --help`)'

# Names that are taken: by the core, a policy, an engine, a file, an alias.
for name in fullkv cpu; do
	kvmod new $name
	says 1 "kvmod: \`$name\` is taken: it is built in"
done
kvmod new snapkv
says 1 'kvmod: `snapkv` is taken: BUILD/.libs/snapkv.so has or provides that name'
kvmod new fake
says 1 'kvmod: `fake` is taken: BUILD/tests/cli/.libs/fake.so has or provides that name'
mkdir "$tmp/modules"
echo 'no module' >"$tmp/modules/of_mine.so"
kvmod new of_mine -o "kvmod.module_path=$tmp/modules"
says 1 'kvmod: `of_mine` is taken: TMP/modules/of_mine.so has or provides that name'
kvmod new short_name -o alias.short-name=topp
says 1 'kvmod: `short_name` is taken: the configuration makes it an alias of `topp`'
[ ! -e snapkv ] && [ ! -e short_name ] || fail 'something was written'

# The policy is built, tested, installed and used as its README says; kvmod itself is not
# installed.
command=$(sed -n 's/^    \(make check PKG.*\)/\1/p' mine/README.md)
[ "$command" = "make check PKG_CONFIG_PATH=$build/core KVMOD=$build/kvmod" ] ||
	fail "the README says: $command"
# builds DIR - the policy's own test passes.
builds() {
	(cd "$1" && sh -c "$command CC='$CC' CFLAGS='-O1 -Wall -Wextra -Werror'") >out 2>&1 ||
		fail "$1: $(cat out)"
	grep -q '2 of 2' out || fail "$1: $(cat out)"
}
builds mine
grep -q '^    budget = 25%$' mine/README.md || fail "the README sets no budget"
try make -C mine PKG_CONFIG_PATH="$build/core" DESTDIR="$tmp/root" install
exits 0
kvmod run -o "kvmod.module_path=$tmp/root$build/.libs:$build/tests/cli/.libs" --policy mine \
	-o 'policy mine.budget=20' --json 'a sentence to be thinned out'
exits 0
json policy=mine prompt_tokens=31 kept.0.0=31 kept.3.1=20
kvmod info mine/mine.so
has 'uses         kvmod.toolkit/1'

# The other kinds.
kvmod new --kind scorer mine -d first
exits 0
cmp first/mine.c mine/mine.c || fail 'a scorer is not the usual kind'
kvmod new ends --kind=spans
exits 0
builds ends
kvmod new every -k ops
exits 0
grep -q '^    every = 4$' every/README.md || fail "the README sets no \`every\`"
# A policy can use libm.
sed 's|^#include <kvmod/policy.h>|#include <math.h>\n&|
	s|return i < p->sinks|return (int64_t)(cbrt((double)i * (double)i * (double)i) + 0.5) < p->sinks|' \
	every/every.c >every/changed.c
cmp -s every/every.c every/changed.c && fail 'every.c has changed, and this test does not know it'
mv every/changed.c every/every.c
builds every
kvmod new other --kind=hats
says 2 'kvmod: --kind=hats: expected scorer, spans or ops (see `kvmod new --help`)'
finish
