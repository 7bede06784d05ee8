#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# plot curve, heads and latency: what gnuplot draws of results, and that text in them stays text.
. "${srcdir:-.}/tests/cli/lib.sh"

if ! command -v gnuplot >/dev/null; then
	echo 'skipped: gnuplot is not there (the package gnuplot-nox)'
	exit 77
fi
cd "$tmp" || exit 99

# drawn FILE WORDS... - it is a whole picture, well-formed, with these as texts.
drawn() {
	exits 0
	: | err
	: | out
	file=$1
	shift
	tail -n 3 "$file" | grep -q '</svg>' || fail "$file is not whole"
	if command -v python3 >/dev/null; then
		python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$file" ||
			fail "$file is not XML"
	fi
	sed -n 's/.*<text[^>]*>\(.*\)<\/text>.*/\1/p' "$file" >"$tmp/texts"
	for word in "$@"; do
		grep -qxF -e "$word" "$tmp/texts" || fail "$file has no text '$word': $(cat "$tmp/texts")"
	done
}

# points FILE - how many markers were drawn, with those of the legend.
points() {
	grep -o "<use xlink:href='#gpPt[0-9]*' transform='translate" "$1" | wc -l
}

# --- curve ------------------------------------------------------------------------------

# result ID TASK CASE POLICY STATUS BYTES FULL KL
result() {
	printf '{"id": "%s", "task": "%s", "case": "%s", "policy": "%s", "status": "%s", "cache_bytes": %s, "cache_bytes_full": %s, "kl_mean": %s, "agree": 1}\n' "$@"
}
head='{"kvmod_eval": 1, "model": "Echo"}'
{
	echo "$head"
	result n1 needle snapkv:budget=10 snapkv ok 100 1000 0.5
	result n2 needle snapkv:budget=10 snapkv ok 100 1000 0.1
	result n1 needle snapkv:budget=40 snapkv ok 400 1000 0.01
	result n1 needle fullkv fullkv ok 1000 1000 0
	result n2 needle fullkv fullkv ok 1000 1000 -1e-12
	result n1 needle adakv adakv failed 0 0 null
	result c1 code adakv adakv skipped null null null
	result c1 code topp topp ok 250 1000 0.02
	# As a killed run leaves it.
	printf '{"id": "n9", "task'
} >results
kvmod plot curve results -o curve.svg
drawn curve.svg snapkv fullkv topp 0 0.01 0.1 '100%' 'Size of the cache, and what it costs'
grep -qxF adakv texts && fail 'a policy without a result is in the legend'
# 2 of snapkv, and one each of the two others; 3 in the legend.
[ "$(points curve.svg)" -eq 7 ] || fail "$(points curve.svg) points"
kvmod plot curve results --task code --title 'Code & <more>' --output=code.svg --width 500 --height 300
drawn code.svg topp 'Code &amp; &lt;more>'
[ "$(points code.svg)" -eq 2 ] || fail "$(points code.svg) points of a task"
grep -q 'width="500" height="300"' code.svg || fail 'another size'
# Several files are one; without -o the picture goes to standard output.
{
	echo "$head"
	result n1 needle h2o h2o ok 100 1000 0.2
} >more
kvmod plot curve results more
exits 0
: | err
mv "$tmp/out" both.svg
: >"$tmp/out"
drawn both.svg snapkv fullkv topp h2o
kvmod plot curve - -o stdin.svg <more
drawn stdin.svg h2o
# A single point; zeros alone; and an old picture of the same name is replaced.
{
	echo "$head"
	result n1 needle fullkv fullkv ok 1000 1000 0
} >zero
cp curve.svg zero.svg
kvmod plot curve zero --title '' -o zero.svg
drawn zero.svg fullkv 0
grep -q snapkv zero.svg && fail 'the old picture'
# Many policies with long names: all of them are in the legend.
{
	echo "$head"
	for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
		result n1 needle c$i "$i-a-policy-with-a-name-of-more-than-forty-characters" ok $i 100 0.$i
	done
} >many
kvmod plot curve many -o many.svg
drawn many.svg 1-a-policy-with-a-name-of-more-than-for… 30-a-policy-with-a-name-of-more-than-fo…
[ "$(grep -c a-policy-with many.svg)" -ge 30 ] || fail 'a legend without all policies'
kvmod plot curve many -o small.svg --width 480 --height 300
drawn small.svg
[ "$(grep -c '…' small.svg)" -ge 30 ] || fail 'a small legend without all policies'

# Nothing in a name is a command of gnuplot or of SVG.
{
	echo "$head"
	for name in "'; system(\\\"touch evil\\\")" "''; system 'touch evil' #" '\"; system(\"touch evil\"); \"' \
		'`touch evil`' '@x {' '\\' "'" '%s %d' '<script>alert(1)</script>' '&lt;' 'a\u0000b' '\u202ex' \
		'a\nb\tc' '\ud83d\ude00 \u6f22' '\uffff' ']]>' '$x' '#' ''; do
		result n1 needle "$name" "$name" ok 100 1000 0.1
	done
} >evil_names
# printf has read the backslashes of the names.
sed -n 2p evil_names | grep -q 'system(\\"' || {
	fail 'the names are not as meant'
	cat evil_names
}
kvmod plot curve evil_names -o evil.svg --title "'; system('touch evil'); \`touch evil\` <b>"
drawn evil.svg "'; system(\"touch evil\")" '`touch evil`' '@x {' '%s %d' \
	'&lt;script>alert(1)&lt;/script>' '&amp;lt;' 'a b c' '\u202ex' \
	"'; system('touch evil'); \`touch evil\` &lt;b>"
[ ! -e evil ] || fail 'a name was run'
grep -q '<script' evil.svg && fail 'a script in a picture'

# --- heads ---------------------------------------------------------------------------------

long="$(head -c 60 /dev/zero | tr '\0' x)"
kvmod run --json --policy streamingllm -o 'policy streamingllm.budget=50%' -n 1 "$long"
cp "$tmp/out" run.json
kvmod plot heads run.json -o heads.svg
drawn heads.svg 'KV head' layer '0%' 3 1
grep -q 'streamingllm: the share of 63 tokens that each KV head keeps' heads.svg || fail 'another title'
# A cell for each of 4 layers and 2 heads.
boxes() {
	grep -c "<polygon fill = " "$1"
}
all=$(boxes heads.svg)
sed 's/"kept": \[\[[0-9]*, [0-9]*\]/"kept": [[null, null]/' run.json >window.json
kvmod plot heads window.json -o window.svg
drawn window.svg layer
[ "$(boxes window.svg)" -eq $((all - 2)) ] || fail "$(boxes window.svg) boxes, not two less than $all"
echo '{"policy": "a<b", "seen": 10, "budget": 1, "kept": [[10]]}' >one.json
kvmod plot heads one.json -o one.svg
drawn one.svg 'a&lt;b: the share of 10 tokens that each KV head keeps (mean 100%)'
# Of several objects one is named by its line.
cat run.json one.json >two.json
kvmod plot heads two.json -o two.svg
says 1 'kvmod: two.json:2: a second object: expected one, or --line=N, the line of the one to draw'
[ ! -e two.svg ] || fail 'a picture all the same'
kvmod plot heads two.json --line 2 -o two.svg
drawn two.svg
cmp -s one.svg two.svg || fail 'not the object of that line'
kvmod plot heads two.json --line 3
says 1 'kvmod: two.json: no object begins on line 3'

# --- latency ---------------------------------------------------------------------------------

kvmod bench decision --json --policy topp --layers 2 --lengths 64,128,256 --rounds 9
cp "$tmp/out" decision.json
kvmod plot latency decision.json -o latency.svg
drawn latency.svg 64 128 256 'decision of topp' 'Time of a decision on cpu, 2 layers'
# 3 of each, and 2 in the legend.
[ "$(points latency.svg)" -ge 8 ] || fail "$(points latency.svg) points"
kvmod bench decision --json --policy topp --layers 2 --lengths 64 --rounds 9
cp "$tmp/out" single.json
kvmod plot latency single.json -o single.svg
exits 0
kvmod bench engine --json --rival fake --policy streamingllm --lengths 16,32 --rounds 9 --decode 2
cp "$tmp/out" engine.json
kvmod plot latency engine.json -o engine.svg
drawn engine.svg prefill 'prefill, fake' 'first token, decided' 'decoding, full cache' \
	'decoding, cut cache' 'decoding, fake' 16 32

# --- gnuplot itself ---------------------------------------------------------------------------

# The user's settings do not matter, and neither does the locale.
mkdir home
echo 'set terminal png; set output "wrong"; exit status 3' >home/.gnuplot
try env HOME="$tmp/home" LC_ALL=C "$build/kvmod" plot curve results -o again.svg
drawn again.svg
cmp -s curve.svg again.svg || fail 'another picture with other settings'
mkdir bin
PATH_TO_GNUPLOT=$tmp/bin
with() {
	printf '#!/bin/sh\n%s\n' "$1" >bin/gnuplot
	chmod +x bin/gnuplot
	try env PATH="$PATH_TO_GNUPLOT:$PATH" "$build/kvmod" plot curve results -o with.svg
	[ ! -e with.svg ] || fail 'a picture all the same'
}
with 'echo "<svg>"; exit 0'
says 1 'kvmod: gnuplot failed: exit status 0, and no whole picture'
with 'echo "gnuplot> plot x" >&2; echo "        ^" >&2; echo "line 7: no such thing" >&2; exit 1'
says 1 'kvmod: gnuplot failed: line 7: no such thing'
with 'kill -KILL $$'
says 1 'kvmod: gnuplot failed: Killed'
finish
