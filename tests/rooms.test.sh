#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A room includes only its own headers and those of rooms below it. HACKING lists the rooms,
# lowest first; this test reads that list, so that the page stays true. The guard of a header
# is its path.
set -eu
srcdir=${srcdir:-.}
[ -f "$srcdir/HACKING" ] || { echo "no HACKING in $srcdir" >&2; exit 1; }
cd "$srcdir"
list=$(find core kernels policies plugins \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) \
	-print | grep -v '/build/' | sort)
# shellcheck disable=SC2086 # the list is one word per file
awk '
function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
function exists(path) { return path in known }
function room_of(path,   dir) {
	for (dir = folder(path); !(dir in level) && dir ~ /\//; dir = folder(dir))
		;
	return dir
}
BEGIN {
	while ((getline line <"HACKING") > 0) {
		if (line ~ /^The rooms/) inside = 1
		else if (line ~ /^Names say the room/) inside = 0
		else if (inside && line ~ /^  [a-z]+(\/[a-z_]+)*( |$)/) {
			split(line, word, " ")
			if (word[1] in level) { print "HACKING lists " word[1] " twice"; bad++ }
			level[word[1]] = ++n_rooms
		}
	}
	for (i = 1; i < ARGC; i++) known[ARGV[i]]
	if (n_rooms < 5) { print "HACKING lists no rooms"; exit 1 }
}
FNR == 1 {
	room = room_of(FILENAME)
	if (!(room in level)) { print FILENAME ": HACKING does not list its room"; bad++ }
	else used[room]
	n_files++
}
/^[ \t]*#[ \t]*include[ \t]*["<]/ {
	split($0, part, /["<>]/)
	name = part[2]
	if (name ~ /\.\./) {
		print FILENAME ":" FNR ": includes " name ", by a relative path"
		bad++
		next
	}
	local = folder(FILENAME) "/" name
	if (name ~ /^kvmod\//) target = "core/include/" name
	else if (exists(local)) target = local
	else if (exists(name)) target = name
	else if (name ~ /^tests\//) { print FILENAME ":" FNR ": includes " name ", of the tests"; bad++; next }
	else next
	to = room_of(target)
	n_includes++
	if (room == "plugins/llama" && to == "plugins/ggml") {
		print FILENAME ":" FNR ": an engine includes another"
		bad++
	}
	if (to in level && room in level && level[to] > level[room]) {
		print FILENAME ":" FNR ": " room " includes " name ", of " to ", which is above it"
		bad++
	}
}
END {
	for (room in level)
		if (!(room in used)) { print "HACKING lists " room ", which has no sources"; bad++ }
	if (n_files < 100 || n_includes < 200) { print "too little was read: " n_files " files"; bad++ }
	exit bad > 0
}' $list

# No two headers share a guard. kernels/cpu/vector*.h have none: they are included once for each
# vector width.
bad=$(for file in $(find core kernels plugins policies tests -name '*.h' -o -name '*.cuh' | sort); do
	case $file in
	core/include/kvmod/*) want=KVMOD_${file##*/} ;;
	kernels/cpu/vector*.h | */build/*) continue ;;
	*) want=KV_$file ;;
	esac
	want=$(printf %s "$want" | tr 'a-z/.' 'A-Z__')
	[ "$(grep -c -x -e "#ifndef $want" -e "#define $want" "$file")" -eq 2 ] ||
		echo "$file: the include guard must be $want"
done)
[ -z "$bad" ] || { echo "$bad"; exit 1; }

# A stranger learns from the head of a source what it is for: a comment follows its licence.
bad=$(find conf core kernels plugins policies tests \( -name '*.[ch]' -o -name '*.cu' -o \
	-name '*.cuh' -o -name '*.sh' -o -name '*.mk' -o -name '*.py' \) -print |
	grep -v '/build/' | sort | xargs awk '
	FNR == 1 { judge(); file = FILENAME; told = 0 }
	told == 0 && !/^#!/ && !/SPDX-License-Identifier/ { told = /^(\/\*|# |""")/ && !/shellcheck/ ? 1 : 2 }
	END { judge() }
	function judge() {
		if (file != "" && told != 1)
			print file ": expected a comment below the licence that says what the file is for"
	}')
[ -z "$bad" ] || { echo "$bad"; exit 1; }
