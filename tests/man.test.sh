#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The manual pages: free of lint, and in agreement with what they describe.
: "${srcdir:=.}"
man=$srcdir/man
status=0
skipped=

fail() {
	echo "FAIL: $*"
	status=1
}

# Prints the words that are in only one of two lists, with one word a line.
same() {
	what=$1 here=$2 there=$3
	sort -u "$4" >"$tmp/a"
	sort -u "$5" >"$tmp/b"
	[ -s "$tmp/a" ] || fail "$what: nothing found in $here"
	[ -s "$tmp/b" ] || fail "$what: nothing found in $there"
	for word in $(comm -23 "$tmp/a" "$tmp/b" | tr ' ' '^'); do
		fail "$what: $(echo "$word" | tr '^' ' ') is in $here, not in $there"
	done
	for word in $(comm -13 "$tmp/a" "$tmp/b" | tr ' ' '^'); do
		fail "$what: $(echo "$word" | tr '^' ' ') is in $there, not in $here"
	done
}

# A variable of the build.
makefile() {
	sed -n "s/^$1 = //p" Makefile
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-man.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
# The user's configuration does not matter here.
KVMOD_CONF=/dev/null
export KVMOD_CONF

# --- lint ------------------------------------------------------------------------

# References to pages that are not installed, or not in an outdated index, are no faults.
lint_mandoc() {
	mandoc -T lint "$1" 2>&1 | grep -v -e 'referenced manual not found' -e 'outdated mandoc.db'
}

lint_groff() {
	groff -mandoc -ww -z "$1" 2>&1
}

for tool in mandoc groff; do
	if ! command -v $tool >/dev/null; then
		skipped="$skipped $tool"
		continue
	fi
	for page in "$man"/*.[1-9]; do
		words=$(lint_$tool "$page")
		[ -z "$words" ] || fail "$tool: $words"
	done
	echo "$tool: the pages are clean"
done

# --- libkvmod(3): every exported symbol, declared as the headers declare it --------

sed -n 's/^[[:space:]]*\(kvmod_[a-z0-9_]*\);$/\1/p' "$srcdir/core/libkvmod.map" >"$tmp/exported"
# ".Ft int", ".Fo name", ".Fa arg" ..., ".Fc" -> "int name(arg, ...);"
awk '
	/^\.Ft / { sub(/^\.Ft "?/, ""); sub(/"$/, ""); type = $0 }
	/^\.Fn kvmod_[a-z_]* void$/ { print type, $2 "(void);" }
	/^\.Fo / { text = type " " $2 "("; blank = "" }
	/^\.Fa "/ && text { sub(/^\.Fa "/, ""); sub(/"$/, ""); text = text blank $0; blank = ", " }
	/^\.Fc/ { print text ");"; text = "" }
' "$man/libkvmod.3" >"$tmp/declared"
sed 's/(.*//; s/.* //' "$tmp/declared" >"$tmp/documented"
same symbols libkvmod.map libkvmod.3 "$tmp/exported" "$tmp/documented"

# A declaration that differs from the headers' does not compile.
{
	echo '#include <kvmod/kvmod.h>'
	grep -v '(\.\.\.)' "$tmp/declared"
} >"$tmp/declared.c"
words=$($(makefile CC) -I"$srcdir/core/include" -fsyntax-only "$tmp/declared.c" 2>&1) ||
	fail "declarations in libkvmod.3: $words"

# --- libkvmod(3): every field of the structs that a program fills or reads -----------

# "struct kvmod_view { ... int64_t stride; ... }" -> "kvmod_view.stride"
cat "$srcdir"/core/include/kvmod/*.h | tr '\n' ' ' | sed 's|/\*|\n/*|g; s|\*/|*/\n|g' |
	grep -v '^/\*' | tr '\n' ' ' | sed 's/struct kvmod_[a-z_]* {/\n&/g' | awk '
	sub(/^struct /, "") && sub(/}.*/, "") {
		name = $1
		sub(/[^{]*{/, "")
		n = split($0, declarations, ";")
		for (i = 1; i < n; i++) {
			# "void (*f)(int a, int b)", "uint32_t a, b", "const char *a"
			sub(/\)[ ]*\(.*/, "", declarations[i])
			m = split(declarations[i], fields, ",")
			for (j = 1; j <= m; j++) {
				field = fields[j]
				gsub(/[^a-z0-9_]+/, " ", field); sub(/ $/, "", field); sub(/.* /, "", field)
				if (field != "size" && field != "reserved")
					print name "." field
			}
		}
	}' >"$tmp/all_fields"
awk '
	/^\.S[sh] / { name = $2 == "struct" ? $3 : "" }
	/^\.It Va / && name { for (i = 3; i <= NF; i++) if ($i != ",") print name "." $i }
' "$man/libkvmod.3" >"$tmp/documented"
{
	# These structs must be listed; of any other listed struct, all fields must be.
	printf 'kvmod_%s\n' request segment head view plan keep span counters
	sed 's/\..*//' "$tmp/documented"
} | sort -u >"$tmp/structs"
while read -r name; do
	grep "^$name\." "$tmp/all_fields" || fail "libkvmod.3 has struct $name, the headers have not" >&2
done <"$tmp/structs" >"$tmp/fields"
same fields kvmod/*.h libkvmod.3 "$tmp/fields" "$tmp/documented"

# --- kvmod-module(7): what a policy is handed, asks for and answers -------------------

for name in view head segment request needs keep plan; do
	sed -n "s/^kvmod_$name\.//p" "$tmp/all_fields" >"$tmp/fields"
	[ "$(wc -l <"$tmp/fields")" -ge 3 ] || fail "hardly any field of struct kvmod_$name was found"
	while read -r field; do
		grep -qw "$field" "$man/kvmod-module.7" ||
			echo "kvmod-module.7: $field of struct kvmod_$name is not there"
	done <"$tmp/fields" >"$tmp/words"
	[ ! -s "$tmp/words" ] || fail "$(cat "$tmp/words")"
done

# --- libkvmod(3) and kvmod.h: every key of a module's metadata that is asked for --------

cat "$srcdir"/core/*/*.c | grep -oE '(kvmod_modinfo_get|facts_json)\([a-z]+, "[a-z_]+"' |
	sed 's/.*"\(.*\)"/\1/' | sort -u >"$tmp/keys"
[ "$(wc -l <"$tmp/keys")" -ge 5 ] || fail "hardly any key of metadata was found"
section_of_keys=$(sed -n '/^\.Fn kvmod_modinfo_get$/,/^\.Ft/p' "$man/libkvmod.3")
comment_of_keys=$(sed -n '/string with that key/,/kvmod_modinfo_get/p' \
	"$srcdir/core/include/kvmod/kvmod.h")
while read -r key; do
	echo "$section_of_keys" | grep -q "^\.Cm.*\<$key\>" || fail "libkvmod.3: no key '$key'"
	case $comment_of_keys in
	*"\"$key\""*) ;;
	*) fail "kvmod.h: no key \"$key\"" ;;
	esac
done <"$tmp/keys"

# --- kvmod(1): every command, with every option --------------------------------------

# section TITLE PAGE - the lines of one subsection.
section() {
	awk -v title="$1" '
		/^\.S[sh] / { on = substr($0, 5) == title }
		on
	' "$2"
}

commands() {
	./kvmod $1 --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

# "-f, --file=FILE" -> "f file" and "--json" -> "- json"
options() {
	./kvmod $1 --help | sed -n '/^Options:/,/^$/{
		s/^  -\([a-z]\), --\([a-z-]*\).*/\1 \2/p
		s/^      --\([a-z-]*\).*/- \1/p
	}'
}

check_command() {
	section "$1" "$man/kvmod.1" >"$tmp/section"
	[ -s "$tmp/section" ] || fail "kvmod.1 has no section '$1'"
	options "$1" >"$tmp/options"
	[ -s "$tmp/options" ] || fail "'kvmod $1 --help' lists no options"
	while read -r letter name; do
		[ "$name" = help ] && continue
		grep -q -e "Fl -$name\>" -e "Fl $letter\>" "$tmp/section" ||
			fail "kvmod.1: the section '$1' has no --$name"
		# An option is explained once: here, or with those of several commands.
		cat "$tmp/section" "$tmp/common" | grep -q "^\.It.* Fl -$name\>" ||
			fail "kvmod.1: --$name of '$1' is not explained"
	done <"$tmp/options"
	sed -n 's/^\.It.* Fl -\([a-z-]*\).*/\1/p' "$tmp/section" | while read -r name; do
		grep -q " $name\$" "$tmp/options" ||
			echo "kvmod.1: 'kvmod $1' has no --$name"
	done >"$tmp/words"
	[ ! -s "$tmp/words" ] || fail "$(cat "$tmp/words")"
}

section 'Options that several commands have' "$man/kvmod.1" >"$tmp/common"
commands '' >"$tmp/commands"
[ -s "$tmp/commands" ] || fail "'kvmod --help' lists no commands"
for command in $(cat "$tmp/commands"); do
	if [ "$command" = bench ] || [ "$command" = plot ]; then
		for kind in $(commands "$command"); do
			check_command "$command $kind"
		done
	else
		check_command "$command"
	fi
done

# --- kvmod(1): every member of the JSON answers ----------------------------------------

# json TITLE ARG... - the members of an answer are named in that section.
json() {
	{
		section "$1" "$man/kvmod.1"
		[ "${1#bench }" = "$1" ] || section bench "$man/kvmod.1"
	} | sed -n 's/.*Va \(.*\)/\1/p' | tr ' ' '\n' |
		grep '^[a-z_]*$' >"$tmp/named"
	shift
	./kvmod "$@" --json >"$tmp/answer" 2>"$tmp/words" || fail "kvmod $*: $(cat "$tmp/words")"
	grep -o '"[a-z_]*":' "$tmp/answer" | tr -d '":' >"$tmp/members"
	[ -s "$tmp/members" ] || fail "kvmod $* --json: no members"
	for member in $(sort -u "$tmp/members"); do
		grep -qx "$member" "$tmp/named" || fail "kvmod.1: $member of 'kvmod $* --json' is not there"
	done
}

json list list
json info info snapkv
json check check
json selftest selftest topp
json 'bench decision' bench decision --policy snapkv --layers 4 --lengths 64 --rounds 9
json 'bench load' bench load --policy topp --rounds 9
# With these options the object has all members that it has without, and more.
echo 'one two three' >"$tmp/context"
json run run -o "kvmod.module_path=$PWD/tests/cli/.libs:" -o kvmod.engine=fake \
	--policy streamingllm --compare --positions --context "$tmp/context" 'four'
same members "'kvmod run --json'" kvmod.1 "$tmp/members" "$tmp/named"

# --- every parameter, with its default: kvmod-policies(7), kvmod.conf(5), conf/ ------------

# "[policy topp]", a heading, "  p real 0.95 0..1 help" -> "topp p real 0.95 0..1"
parameters() {
	./kvmod info "$2" | awk -v kind="$1" '
		/^\[/ { name = $1 == "[" kind ? substr($2, 1, length($2) - 1) : ""; next }
		name && /^  [a-z]/ { print name, $1, $2, $3, $4 }
	'
}

# ".It Cm p No = 0.95 Pq real , 0..1" below ".Ss topp" -> the same
documented() {
	awk -v strip="$1" '
		function word(text) { return text == "" ? "-" : text }
		/^\.Ss / { name = substr($0, 5); sub(strip, "", name); sub(/\].*/, "", name) }
		/^\.It Cm [a-z0-9_]* No = / {
			sub(/^\.It Cm /, ""); sub(/ No =/, "")
			gsub(/ \| /, "|"); sub(/ , /, " ")
			split($0, part, / ?Pq /)
			split(part[1], said, " "); split(part[2], kind, " ")
			print name, said[1], kind[1], word(said[2]), word(kind[2])
		}
	' "$2"
}

: >"$tmp/built"
for policy in $(./kvmod list policies); do
	[ "$policy" = fullkv ] || parameters policy "$policy" >>"$tmp/built"
done
documented '^$' "$man/kvmod-policies.7" >"$tmp/documented"
same parameters 'kvmod info' kvmod-policies.7 "$tmp/built" "$tmp/documented"

# "[policy topp]", "#p = 0.95" -> "topp p 0.95"
shown() {
	awk -v kind="$1" '
		/^\[/ { name = $1 == "[" kind ? substr($2, 1, length($2) - 1) : "" }
		name && /^#?[a-z0-9_]+ = / { sub(/^#/, ""); print name, $1, $3 }
	' "$srcdir/conf/kvmod.conf"
}

cut -d' ' -f1,2,4 "$tmp/built" >"$tmp/short"
shown policy >"$tmp/shown"
same parameters 'kvmod info' conf/kvmod.conf "$tmp/short" "$tmp/shown"

./kvmod list policies >"$tmp/built"
sed -n '/^\.Sh POLICIES/,/^\.Sh EXAMPLES/s/^\.Ss //p' "$man/kvmod-policies.7" >"$tmp/documented"
same policies 'kvmod list policies' kvmod-policies.7 "$tmp/built" "$tmp/documented"

if ./kvmod list engines | grep -q '^ggml$'; then
	for engine in ggml llama; do
		parameters engine $engine
	done >"$tmp/built"
	documented '^.engine ' "$man/kvmod.conf.5" | grep -e '^ggml ' -e '^llama ' >"$tmp/documented"
	same parameters 'kvmod info' kvmod.conf.5 "$tmp/built" "$tmp/documented"
	cut -d' ' -f1,2,4 "$tmp/built" >"$tmp/short"
	shown engine >"$tmp/shown"
	same parameters 'kvmod info' conf/kvmod.conf "$tmp/short" "$tmp/shown"
else
	echo 'skipped: the parameters of the engines ggml and llama, which are not built'
fi

# --- kvmod.conf(5): every architecture that the engine ggml runs ---------------------------

sed -n 's/^\t{ "\([a-z0-9]*\)", GGML_ROPE_TYPE_.*/\1/p' "$srcdir/plugins/gguf/families.c" >"$tmp/built"
sed -n '/^\.Pq Cm general.architecture/,/^\.El/s/^\.It Cm //p' "$man/kvmod.conf.5" >"$tmp/documented"
same architectures plugins/gguf/families.c kvmod.conf.5 "$tmp/built" "$tmp/documented"

# -------------------------------------------------------------------------------------

[ "$skipped" != ' mandoc groff' ] || {
	echo 'skipped: the pages are not linted: neither mandoc nor groff is there'
	[ $status -ne 0 ] || status=77
}
exit $status
