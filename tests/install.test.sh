#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What `make install` installs, used as somebody without the source tree would: the
# command, the modules, the engine, and a policy written with `kvmod new` and
# pkg-config.
# INSTALLED=yes tests an existing installation (make installcheck).
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
tmp=$(cd "$tmp" && pwd -P)
build=$(pwd -P)

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
private=$root$(where pkglibdir)
doc=$root$(where docdir)
conf=$root$(where confdir)/kvmod.conf
mandir=$root$(where mandir)
completion=$root$(where completiondir)/kvmod
installed_model=$root$(where modeldir)/default.gguf

bundle=$(where GGML_BUNDLE)
map=$(where abs_top_srcdir)/core/libkvmod.map

# What kvmod was built from, unless it was installed there, as distcheck does.
model=$(where DEFAULT_MODEL)
sources="$bundle $model"
for folder in "$build" "$(cd "$(where abs_top_srcdir)" && pwd -P)"; do
	case $tmp/:$(cd "$bin" && pwd -P)/ in
	"$folder"/* | *:"$folder"/*) ;;
	*) sources="$sources $folder" ;;
	esac
done

# Without the user's settings, in an empty folder.
mkdir "$tmp/home" "$tmp/work"
HOME=$tmp/home
PATH=$bin:$PATH
PKG_CONFIG_PATH=$lib/pkgconfig
PKG_CONFIG_SYSROOT_DIR=$root
export HOME PATH PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
# The command finds its library by itself, except in a system folder.
if [ -z "$(where COMMAND_RPATH)" ]; then
	LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	export LD_LIBRARY_PATH
fi
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
if [ -f "$modules/ggml.so" ] && [ -n "$model" ]; then
	[ -e "$installed_model" ] || fail "$installed_model: not installed"
	# The head table of this model is installed too.
	case $model in
	*/SmolLM2-135M-Instruct*) expect "the head table" kvmod check --policy duo ;;
	esac
	expect "kvmod check" kvmod check
elif [ -f "$modules/ggml.so" ]; then
	# Nor is a model, if configure had none.
	kvmod check >"$tmp/out" 2>&1 && fail "kvmod check: a model that is not there is fine"
	says "kvmod check" 'default.gguf: No such file or directory'
else
	# The configuration names an engine that this build lacks.
	kvmod check >"$tmp/out" 2>&1 && fail "kvmod check: an engine that is not there is fine"
	says "kvmod check" 'no engine `ggml`'
fi
says "kvmod check" "$conf"

# --- the engine, without its sources and libraries -----------------------------------

# apart COMMAND... - runs it where the source and build trees cannot be reached. Only root
# may arrange that; otherwise the test relies on the loader's log of its search.
apart() {
	if [ "$(id -u)" -ne 0 ] || ! unshare -m true 2>/dev/null; then
		echo "cannot hide the sources here, only follow the loader" >>"$tmp/notes"
		"$@"
		return
	fi
	unshare -m sh -c '
		for source in $0; do
			if [ -d "$source" ]; then
				mount -t tmpfs none "$source" || exit
			elif [ -e "$source" ]; then
				mount --bind /dev/null "$source" || exit
			fi
		done
		exec "$@"' "$sources" "$@"
}

# answers COMMAND... - asks a question, and writes the answer to $tmp/answer.
answers() {
	"$@" "Name three colours." >"$tmp/answer" 2>"$tmp/err" && [ -s "$tmp/answer" ] && return
	fail "$*: no answer"
	cat "$tmp/err"
}

if [ -f "$modules/ggml.so" ]; then
	for file in $bundle; do
		cmp -s "$file" "$private/$(basename "$file")" || fail "$file: not in $private"
	done
	[ -z "$bundle" ] || [ -s "$doc/LICENSE.ggml" ] || fail "no license of ggml in $doc"

	set -- run -n 8 -o kvmod.threads=1
	if [ -z "$model" ]; then
		expect "random_model" "$build/tests/random_model" --shape tiny --type f16 "$tmp/tiny.gguf"
		set -- "$@" --raw -m "$tmp/tiny.gguf"
	fi
	KVMOD_CONF=$conf answers "$build/kvmod" "$@"
	mv "$tmp/answer" "$tmp/expected"
	LD_DEBUG=libs LD_DEBUG_OUTPUT=$tmp/loader answers apart kvmod "$@"
	[ ! -e "$tmp/notes" ] || cat "$tmp/notes"
	cmp "$tmp/expected" "$tmp/answer" || fail "kvmod run: another answer than in the build tree"
	answers apart kvmod "$@" -o kvmod.engine=llama --policy fullkv

	# On glibc: where the loader looked.
	for source in "$build" $bundle; do
		[ -d "$source" ] || source=$(dirname "$source")
		grep -h "$source" "$tmp"/loader.* /dev/null && fail "kvmod run: looked for libraries in $source"
	done
fi

# --- what goes with it -----------------------------------------------------------

[ -s "$doc/LICENSE" ] || fail "$doc/LICENSE: not installed"
for page in man1/kvmod.1 man3/libkvmod.3 man5/kvmod.conf.5 man7/kvmod-module.7 \
	man7/kvmod-policies.7 man7/kvmod-data.7; do
	[ -s "$mandir/$page" ] || fail "$mandir/$page: not installed"
done
# Each function of the library has a page, which declares the function.
symbols=$(sed -n 's/^[[:space:]]*\(kvmod_[a-z0-9_]*\);$/\1/p' "$map")
[ -n "$symbols" ] || fail "$map names no symbols"
for symbol in $symbols; do
	grep -q "^\.F[no] $symbol\>" "$mandir/man3/$symbol.3" || fail "$symbol.3: no page of $symbol"
done
if command -v bash >/dev/null; then
	expect "completion" bash -c ". '$completion' && complete -p kvmod"
fi

# --- somebody else's policy ----------------------------------------------------------

expect "pkg-config" pkg-config --cflags kvmod
says "pkg-config" "^-I$root$(cd "$build" && where includedir) *\$"
expect "kvmod new" kvmod new mine
expect "make in mine" "$MAKE" -C mine
expect "make check in mine" "$MAKE" -C mine check
expect "make install in mine" env -u PKG_CONFIG_SYSROOT_DIR "$MAKE" -C mine install DESTDIR="$tmp/elsewhere"
expect "kvmod list with mine" kvmod list -o "kvmod.module_path=$tmp/elsewhere${modules#"$root"}:"
says "kvmod list with mine" "^mine "

# --- the loader's cache ------------------------------------------------------------

# renewed UID DESTDIR - does `make install` of that user renew it?
renewed() {
	rm -f "$tmp/renewed"
	printf '#!/bin/sh\necho %s\n' "$1" >"$tmp/bin/id"
	PATH=$tmp/bin:$PATH "$MAKE" -C "$build" install-exec-hook DESTDIR="$2" \
		LDCONFIG="touch '$tmp/renewed'" >"$tmp/out" 2>&1 || fail "make install-exec-hook"
	[ -e "$tmp/renewed" ]
}

mkdir "$tmp/bin" && touch "$tmp/bin/id" && chmod +x "$tmp/bin/id"
renewed 0 "" || fail "root's make install does not call ldconfig"
renewed 0 "$tmp/root" && fail "make install with DESTDIR calls ldconfig"
renewed 1000 "" && fail "make install of a user calls ldconfig"

# --- another prefix ----------------------------------------------------------------

# folders DIR - the header that says where things are installed, made for libdir=DIR.
folders() {
	expect "make core/dirs.h" "$MAKE" -f "$build/Makefile" core/dirs.h libdir="$1"
	grep -q "LIB_DIR \"$1\"" core/dirs.h || fail "core/dirs.h: not of $1"
}

mkdir "$tmp/again" && cd "$tmp/again" || exit 99
folders /one
touch -d "2 days ago" core/dirs.h
folders /one
[ -z "$(find core/dirs.h -mtime -1)" ] || fail "core/dirs.h: made anew for the same prefix"
folders /two

# --- reinstalling and uninstalling ---------------------------------------------------

if [ "${INSTALLED:-no}" != yes ]; then
	cd "$build" || exit 99
	echo "# mine" >>"$conf"
	# A process that has loaded the old file keeps it: the file is replaced, not written to.
	exec 3<"$modules/topp.so"
	expect "make install again" "$MAKE" install DESTDIR="$root"
	[ "$(stat -L -c %h /proc/self/fd/3)" = 0 ] || fail "make install wrote into a module's old file"
	exec 3<&-
	[ "$(tail -n 1 "$conf")" = "# mine" ] || fail "make install wrote over a changed kvmod.conf"
	expect "make uninstall" "$MAKE" uninstall DESTDIR="$root"
	left=$(find "$root" ! -type d)
	[ "$left" = "$conf" ] || fail "make uninstall should leave $conf alone, and leaves: $left"
fi
exit $status
