#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# new: a policy that builds, passes its own test, and runs; nothing is written over.
. "${srcdir:-.}/tests/cli/lib.sh"

# What pkg-config says of an installed kvmod, said of this tree.
mkdir "$tmp/bin"
cat >"$tmp/bin/pkg-config" <<END
#!/bin/sh
case \$* in
'--cflags kvmod') echo "-I$(cd "$srcdir" && pwd)/core/include" ;;
'--variable=moduledir kvmod') echo /modules ;;
*) exit 1 ;;
esac
END
chmod +x "$tmp/bin/pkg-config"
PATH=$tmp/bin:$PATH
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
says 1 'kvmod: mine/mine.c is there already: nothing was written'
mkdir other
echo 'all: keep me' >other/Makefile
kvmod new other --dir other
says 1 'kvmod: other/Makefile is there already: nothing was written'
[ "$(ls other)" = Makefile ] || fail "something was written: $(ls other)"
kvmod new another -d "$tmp/no/such"
says 1 'kvmod: TMP/no/such: No such file or directory'
for name in '' 9lives With-Caps a.b ../up; do
	kvmod new "$name"
	says 2 "kvmod: \`$name\`: a name begins with a-z, goes on with a-z, 0-9 and _, and has at most 32 characters (see \`kvmod new --help\`)"
done
kvmod new fullkv
says 2 'kvmod: `fullkv` is the name of the policy that is built in (see `kvmod new --help`)'

# It is built, tested, put in place and used.
try make -C mine CC="$CC" CFLAGS='-O1 -Wall -Wextra -Werror'
exits 0
try make -C mine CC="$CC" KVMOD="$build/kvmod" check
exits 0
try make -C mine CC="$CC" DESTDIR="$tmp/root" install
exits 0
kvmod run -o "kvmod.module_path=$tmp/root/modules:$build/tests/cli/.libs" --policy mine \
	-o 'policy mine.recent=4' --json 'a sentence to be thinned out'
exits 0
json policy=mine prompt_tokens=31 kept.0.0=20 kept.3.1=20
finish
