#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our own policies use exactly what is installed: the sources of each are copied out
# of the tree, built with only the installed headers, and tested with its vectors.
# The headers and an example are also compiled as C++ and by other compilers.
: "${srcdir:=.}"
status=0

fail() {
	echo "FAIL: $*"
	status=1
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-toolkit.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
# The user's configuration does not matter here.
KVMOD_CONF=/dev/null
export KVMOD_CONF
CC=$(sed -n 's/^CC = //p' Makefile)
mkdir -p "$tmp/include/kvmod"
for header in $(sed -n '/^kvmodinclude_HEADERS = /,/[^\\]$/p' Makefile |
	sed 's/^kvmodinclude_HEADERS =//; s/\\$//'); do
	cp "$srcdir/$header" "$tmp/include/kvmod/" || fail "$header is not there"
done
[ -f "$tmp/include/kvmod/scorer.h" ] || fail "kvmod/scorer.h is not installed"

# builds NAME SOURCE... - builds the module from copies in their own folder.
builds() {
	name=$1
	shift
	mkdir "$tmp/$name"
	for source; do
		cp "$srcdir/policies/$source" "$tmp/$name/"
	done
	(cd "$tmp/$name" && $CC -std=c11 -O2 -fPIC -shared -Wall -Wextra -Werror -Wl,-z,defs \
		-I"$tmp/include" -o "$name.so" ./*.c -lm) >"$tmp/out" 2>&1 ||
		fail "$name out of the tree: $(cat "$tmp/out")"
}

# holds NAME [FILE] - runs the module's selftest, with its cases of a file of vectors.
holds() {
	name=$1
	n=$(grep -c "^policy $name\$" "${2:-/dev/null}")
	./kvmod selftest "$tmp/$name/$name.so" ${2:+--vectors "$2"} >"$tmp/out" 2>&1 ||
		fail "$name: $(cat "$tmp/out")"
	[ -z "${2:-}" ] && return
	[ "$n" -gt 0 ] || fail "no vectors of $name"
	grep -q "^golden vectors: $n of $n\$" "$tmp/out" || fail "$name: not $n cases: $(cat "$tmp/out")"
}

golden=$srcdir/tests/golden/policies.txt
for source in "$srcdir"/policies/*.c; do
	name=$(basename "$source" .c)
	case $name in
	duo* | refreekv*) continue ;;
	esac
	case $name in
	contribution) builds "$name" "$name.c" contribution.h ;;
	kvzip) builds "$name" "$name.c" repeat.h ;;
	replay) builds "$name" "$name.c" contribution.h repeat.h ;;
	*) builds "$name" "$name.c" ;;
	esac
	# Not in that file: what random draws is its own affair, kvzip's scores are an engine's,
	# and so are the losses of replay.
	case $name in
	random | kvzip | replay) holds "$name" ;;
	*) holds "$name" "$golden" ;;
	esac
done
builds duo duo.c duo_table.c duo_table.h
holds duo
builds refreekv refreekv.c refreekv_attention.c refreekv_params.c refreekv_position.c \
	refreekv.h refreekv_params.h
holds refreekv "$golden"
./kvmod selftest "$tmp/refreekv/refreekv.so" --vectors "$srcdir/tests/golden/refreekv.txt" \
	>"$tmp/out" 2>&1 && grep -qx 'golden vectors: 81 of 81' "$tmp/out" ||
	fail "refreekv: its own vectors: $(cat "$tmp/out")"

# --- other compilers, another language ---------------------------------------------------

# The template of `kvmod new`, which is the manual's example too, as the module NAME.
# compiles NAME KIND SUFFIX COMMAND... - and passes its own test.
compiles() {
	name=$1 kind=$2 suffix=$3
	shift 3
	if ! command -v "$1" >/dev/null; then
		echo "skipped: no $1 here to compile $kind.$suffix with"
		return
	fi
	mkdir "$tmp/$name"
	sed "s/@NAME@/$name/g; s/@AUTHOR@/me/" "$srcdir/conf/template/$kind.c" >"$tmp/$name/$name.$suffix"
	sed "s/@NAME@/$name/g" "$srcdir/conf/template/$kind.vectors" >"$tmp/$name/vectors"
	"$@" -fPIC -shared -Wall -Wextra -Werror -Wl,-z,defs -isystem "$tmp/include" \
		-o "$tmp/$name/$name.so" "$tmp/$name/$name.$suffix" >"$tmp/out" 2>&1 ||
		fail "$* $kind.$suffix: $(cat "$tmp/out")"
	holds "$name" "$tmp/$name/vectors"
}

for kind in scorer spans ops; do
	compiles clang_$kind $kind c clang -std=c11
	# C++ warns of members that are left out.
	compiles cxx_$kind $kind cc g++ -std=c++20 -Wno-missing-field-initializers
	compiles clangxx_$kind $kind cc clang++ -std=c++20 -Wno-missing-field-initializers
done

exit $status
