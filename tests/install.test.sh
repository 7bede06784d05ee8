#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What `make install` leaves, used as a stranger to the source tree would: the
# command, the modules, and a policy written with `kvmod new` and pkg-config.
# INSTALLED=yes looks at what is installed already (make installcheck).
unset MAKEFLAGS MFLAGS MAKELEVEL KVMOD_CONF XDG_CONFIG_HOME
: "${MAKE:=make}"
status=0

fail() {
	echo "FAIL: $*"
	status=1
}

# expect WHAT COMMAND... - the command must succeed.
expect() {
	what=$1
	shift
	"$@" >"$tmp/out" 2>&1 && return
	fail "$what: status $?"
	cat "$tmp/out"
}

says() {
	grep -q -e "$2" "$tmp/out" && return
	fail "$1: nothing matches \`$2'"
	cat "$tmp/out"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-install.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
build=$PWD

where() {
	"$MAKE" -s --no-print-directory --eval="where: ; @echo '\$($1)'" where
}

if [ "${INSTALLED:-no}" = yes ]; then
	root=${DESTDIR:-}
else
	root=$tmp/root
	expect "make install" "$MAKE" install DESTDIR="$root"
fi
bin=$root$(where bindir)
lib=$root$(where libdir)
modules=$root$(where moduledir)
conf=$root$(where confdir)/kvmod.conf
mandir=$root$(where mandir)
completion=$root$(where completiondir)/kvmod
model=$root$(where modeldir)/default.gguf

# Nobody's settings, a folder of no importance, the libraries of this place.
mkdir "$tmp/home" "$tmp/work"
HOME=$tmp/home
PATH=$bin:$PATH
LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
PKG_CONFIG_PATH=$lib/pkgconfig
PKG_CONFIG_SYSROOT_DIR=$root
export HOME PATH LD_LIBRARY_PATH PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
cd "$tmp/work" || exit 99

# --- the command and its modules -------------------------------------------------

expect "kvmod list" kvmod list
cp "$tmp/out" "$tmp/list"
for file in "$modules"/*.so; do
	name=$(basename "$file" .so)
	grep -q "^$name " "$tmp/list" || fail "kvmod list: $name is not in it"
	expect "kvmod info $name" kvmod info "$name"
	says "kvmod info $name" "$file"
done
if [ -f "$modules/ggml.so" ] && [ -e "$model" ]; then
	expect "kvmod check" kvmod check
elif [ -f "$modules/ggml.so" ]; then
	# Nor is a model, if there was none to build with.
	kvmod check >"$tmp/out" 2>&1 && fail "kvmod check: a model that is not there is fine"
	says "kvmod check" 'default.gguf: No such file or directory'
else
	# The configuration names an engine that this build has not.
	kvmod check >"$tmp/out" 2>&1 && fail "kvmod check: an engine that is not there is fine"
	says "kvmod check" 'no engine `ggml`'
fi
says "kvmod check" "$conf"

# --- what goes with it -----------------------------------------------------------

for page in man1/kvmod.1 man3/libkvmod.3 man5/kvmod.conf.5 man7/kvmod-module.7 \
	man7/kvmod-policies.7; do
	[ -s "$mandir/$page" ] || fail "$mandir/$page: not installed"
done
if command -v bash >/dev/null; then
	expect "completion" bash -c ". '$completion' && complete -p kvmod"
fi

# --- a policy of somebody else's ---------------------------------------------------

expect "pkg-config" pkg-config --cflags kvmod
says "pkg-config" "^-I$root$(cd "$build" && where includedir) *\$"
expect "kvmod new" kvmod new mine
expect "make in mine" "$MAKE" -C mine
expect "make check in mine" "$MAKE" -C mine check
expect "make install in mine" env -u PKG_CONFIG_SYSROOT_DIR "$MAKE" -C mine install DESTDIR="$tmp/elsewhere"
expect "kvmod list with mine" kvmod list -o "kvmod.module_path=$tmp/elsewhere${modules#"$root"}:"
says "kvmod list with mine" "^mine "

# --- again, and away ---------------------------------------------------------------

if [ "${INSTALLED:-no}" != yes ]; then
	cd "$build" || exit 99
	echo "# mine" >>"$conf"
	expect "make install again" "$MAKE" install DESTDIR="$root"
	[ "$(tail -n 1 "$conf")" = "# mine" ] || fail "make install wrote over a changed kvmod.conf"
	expect "make uninstall" "$MAKE" uninstall DESTDIR="$root"
	left=$(find "$root" ! -type d)
	[ "$left" = "$conf" ] || fail "make uninstall should leave $conf alone, and leaves: $left"
fi
exit $status
