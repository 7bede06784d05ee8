#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ./bootstrap where it cannot install packages: without apt-get, without root or
# sudo, and on a C library that kvmod does not run on. The script sees only the
# commands in a folder that the test makes, so the result is the same everywhere.
: "${srcdir:=.}"
status=0
tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-bootstrap.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/bin" "$tmp/clone"
cp "$srcdir/bootstrap" "$srcdir/configure.ac" "$tmp/clone"
touch "$tmp/model.gguf"
shell=$(command -v bash) || {
	echo "skipped: no bash"
	exit 77
}

for name in cat cut dirname env grep id mkdir nproc realpath sed sha256sum sleep tail uname; do
	ln -s "$(command -v $name)" "$tmp/bin/$name"
done

# fake NAME [COMMAND] - makes a command NAME that runs COMMAND, or does nothing.
fake() {
	rm -f "$tmp/bin/$1"
	printf '#!%s\n%s\n' "$shell" "${2:-}" >"$tmp/bin/$1"
	chmod +x "$tmp/bin/$1"
}

bootstrap() {
	env -i PATH="$tmp/bin" PYTHON="$tmp/bin/python3" "$shell" "$tmp/clone/bootstrap" \
		--without-cuda "$@" >"$tmp/out" 2>&1 </dev/null && echo "exit status 0" >>"$tmp/out"
	sed "s|$tmp|TMP|g" "$tmp/out" >"$tmp/tidy"
}

# fails WHAT - the script fails with the message on stdin.
fails() {
	says "$1"
	grep -q "^exit status 0" "$tmp/tidy" || return 0
	echo "FAIL: $1: exit status 0"
	status=1
}

# says WHAT - the script's first lines are those on stdin.
says() {
	cat >"$tmp/expected"
	head -n "$(grep -c '' "$tmp/expected")" "$tmp/tidy" | diff -u "$tmp/expected" - && return
	echo "FAIL: $1"
	status=1
}

fake ldd
bootstrap check
fails "nothing is there" <<'LINES'
bootstrap: no apt-get here, and these are missing:
  command gcc
  command make
  command autoconf
  command automake
  command libtoolize
  command pkg-config
  library inih >= 53, with headers and pkg-config file
  library libelf >= 0.180, with headers and pkg-config file
  library jansson >= 2.13, with headers and pkg-config file
  command g++
  command cmake
  command ninja
  command TMP/bin/python3
  module pip of TMP/bin/python3
LINES
grep -q '^  library check >= ' "$tmp/tidy" && grep -q '^  command mandoc$' "$tmp/tidy" &&
	grep -q '^  command gnuplot$' "$tmp/tidy" || {
	echo "FAIL: check needs more than run"
	status=1
}

for name in gcc make autoconf automake libtoolize g++ cmake ninja; do
	fake "$name"
done
fake python3 'exit 1'
fake pkg-config '[ "$2" != "libelf >= 0.180" ]'
bootstrap run
fails "a library and a module are missing" <<'LINES'
bootstrap: no apt-get here, and these are missing:
  library libelf >= 0.180, with headers and pkg-config file
  module pip of TMP/bin/python3
Install them, then run this again. Debian's packages for them: libelf-dev python3-pip
LINES

# Nothing is missing: the script reaches the next step, a fake command.
fake pkg-config
fake autoreconf 'exit 1'
bootstrap run --with-ggml="$tmp" --with-model="$tmp/model.gguf"
says "nothing is missing" <<'LINES'
Packages (no apt-get here) ... there
ggml and libllama: TMP ... there
Default model: TMP/model.gguf ... there
autoreconf ...
LINES

# Debian, with an ordinary user who has some of the programs from elsewhere.
fake apt-get 'echo apt-get was called; exit 1'
fake dpkg-query 'exit 1'
fake id 'echo 1000'
fake pkg-config 'exit 1'
bootstrap --with-ggml="$tmp" --with-model="$tmp/model.gguf"
fails "no sudo" <<'LINES'
bootstrap: not root and no sudo, and these are missing:
  library inih >= 53, with headers and pkg-config file
  library libelf >= 0.180, with headers and pkg-config file
  library jansson >= 2.13, with headers and pkg-config file
As root: apt-get install libinih-dev libelf-dev libjansson-dev
LINES

fake sudo 'echo "sudo: you may not" >&2; exit 1'
fake pkg-config '[ "$2" != "inih >= 53" ]'
bootstrap --with-ggml="$tmp" --with-model="$tmp/model.gguf"
fails "sudo refuses" <<'LINES'
Debian packages: installing gcc make autoconf automake libtool pkgconf libinih-dev libelf-dev libjansson-dev gnuplot-nox with sudo
sudo: you may not
bootstrap: sudo refuses, and these are missing:
  library inih >= 53, with headers and pkg-config file
As root: apt-get install libinih-dev
LINES

fake ldd 'echo "musl libc (x86_64)" >&2; exit 1'
bootstrap
fails "musl" <<'LINES'
bootstrap: this system's C library is musl; kvmod needs glibc
LINES
exit $status
