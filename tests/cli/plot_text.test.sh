#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# plot text, and for all kinds of pictures: what is refused, and that no half file is written.
. "${srcdir:-.}/tests/cli/lib.sh"

cd "$tmp" || exit 99

# drawn FILE - it is a whole picture, and well-formed.
drawn() {
	exits 0
	: | err
	: | out
	[ "$(tail -n 1 "$1")" = '</svg>' ] || fail "$1 is not whole"
	if command -v python3 >/dev/null; then
		python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$1" ||
			fail "$1 is not XML"
	fi
}

# texts FILE - the texts of the picture, one a line.
texts() {
	sed -n 's/^<text .*>\(.*\)<\/text>$/\1/p' "$1"
}

# --- a prompt --------------------------------------------------------------------------------

kvmod run --json --positions --policy streamingllm -o 'policy streamingllm.budget=50%' \
	-o 'policy streamingllm.sinks=1' -n 1 "$(printf 'a <b>&"c"\n\ttab \346\274\242')"
cp "$tmp/out" run.json
kvmod plot text run.json -o text.svg
drawn text.svg
texts text.svg >"$tmp/out"
out <<'END'
streamingllm keeps 47.6% of 21 tokens
The share of KV heads, over all layers, that keep a token
0%
20%
40%
60%
80%
100%
0
·
·
a
&lt;
b
&gt;
&amp;
&quot;
c
&quot;
↵
12
→
t
a
b
·
·
漢
·
END
# Ten tokens are kept whole, and the legend has their shade once.
[ "$(grep -c 'fill="#6aaede"' text.svg)" -eq 11 ] || fail "another number of shades: $(cat text.svg)"
# A part of it, and a strip of the whole in which the part is marked.
kvmod plot text run.json --from 2 --to 5 --title '<&>' --width 480 -o part.svg
drawn part.svg
texts part.svg | sed -n '1p;9,$p' >"$tmp/out"
out <<'END'
&lt;&amp;&gt;
0
2
4
6
8
10
12
14
16
18
21
2
a
&lt;
END
grep -q '<path ' part.svg || fail 'no mark'
grep -q '<path ' text.svg && fail 'a mark without a strip'
# Thousands of tokens: 600 of them as text.
kvmod run --json --positions --policy streamingllm -n 1 "$(head -c 3000 /dev/zero | tr '\0' x)"
cp "$tmp/out" long.json
kvmod plot text - -o long.svg <long.json
drawn long.svg
[ "$(texts long.svg | grep -cx x)" -eq 598 ] || fail "$(texts long.svg | grep -cx x) tokens of text"

# --- what is refused ----------------------------------------------------------------------------

# refuses KIND FILE_CONTENT MESSAGE
refuses() {
	printf "$2" >bad
	cp text.svg old.svg
	kvmod plot "$1" bad -o old.svg
	says 1 "kvmod: $3"
	cmp -s text.svg old.svg || fail 'the old picture is gone'
	kvmod plot "$1" bad -o new.svg
	[ ! -e new.svg ] || fail 'a picture all the same'
	rm -f new.svg
}
eval='the output of kvmod eval'
heads='the output of kvmod run --json'
text='the output of kvmod run --json --positions'
bench='the output of kvmod bench decision --json or kvmod bench engine --json'

refuses curve '' "bad: the file is empty, expected $eval"
refuses curve '{"kvmod_eval": 1}' "bad: the file is empty, expected $eval"
refuses curve '{"kvmod_eval": 1}\n' 'bad: none of 0 results has the status ok: nothing to draw'
refuses curve '{"policy": "x"}\n' "bad:1: {\"policy\":\"x\"}: expected $eval, whose first line has \`kvmod_eval\`"
refuses curve 'hello\n' "bad:1: invalid token near 'hello': expected $eval"
refuses curve '{"kvmod_eval": 1}\n\n{"id": \n{}\n' "bad:3: unexpected token near end of file: expected $eval"
refuses curve '{"kvmod_eval": 1}\n[1]\n' 'bad:2: [1]: expected a result, an object'
refuses curve '{"kvmod_eval": 1}\n{"id": "x"}\n' 'bad:2: `task` is missing: expected the name of a task'
refuses curve '{"kvmod_eval": 1}\n{"task": "x", "status": "fine"}\n' \
	'bad:2: `status` is "fine": expected ok, skipped or failed'
result='{"task": "x", "status": "ok", "case": "c", "policy": "p", "cache_bytes": %s, "cache_bytes_full": %s, "kl_mean": %s}'
line() {
	printf "{\"kvmod_eval\": 1}\\\\n$result\\\\n" "$@"
}
refuses curve "$(line 0 10 0.1)" 'bad:2: `cache_bytes` is 0: expected a number of bytes above 0'
refuses curve "$(line 10 0 0.1)" 'bad:2: `cache_bytes_full` is 0: expected a number of bytes above 0'
refuses curve "$(line 10 10 null)" 'bad:2: `kl_mean` is null: expected a number of nats, 0 or more'
refuses curve "$(line 10 10 -1)" 'bad:2: `kl_mean` is -1: expected a number of nats, 0 or more'
refuses curve "$(line 10 10 '"0"')" 'bad:2: `kl_mean` is "0": expected a number of nats, 0 or more'
refuses curve "$(line 10 10 NaN)" "bad:2: invalid token near 'NaN': expected $eval"
refuses curve "$(line 10 10 1e999)" "bad:2: real number overflow near '1e999': expected $eval"
refuses curve '{"kvmod_eval": 1}\n{"task": "x", "status": "failed"}\n' \
	'bad: none of 1 results has the status ok: nothing to draw'
printf "$(line 10 10 0.1)" >bad
kvmod plot curve bad --task y
says 1 'kvmod: bad: no result of task `y` has the status ok; did you mean `x`?'
kvmod plot curve no-such-file
says 1 'kvmod: no-such-file: No such file or directory'
kvmod plot curve "$tmp"
says 1 'kvmod: TMP: a directory, expected a regular file, a pipe or a terminal'

refuses heads '' "bad: the file is empty, expected $heads"
refuses heads '[]' "bad:1: []: expected $heads"
refuses heads '{"lengths": []}' "bad:1: no \`kept\`: expected $heads"
refuses heads '{"policy": "p", "seen": 4, "budget": 1, "kept": []}' \
	"bad:1: \`kept\` is []: expected an array of layers, $heads"
refuses heads '\n{"policy": "p", "seen": 4, "budget": 1, "kept": [[1, 2], [1]]}' \
	'bad:2: `kept` of layer 1 is [1]: expected the counts of 2 KV heads'
refuses heads '{"policy": "p", "seen": 4, "budget": 1, "kept": [[1, 5]]}' \
	'bad:1: `kept` of layer 0 has 5: expected counts from 0 to 4, the tokens seen'
refuses heads '{"policy": "p", "seen": 4, "budget": 1, "kept": [[null, null]]}' \
	'bad:1: `kept` has no counts: every layer caches only a window'
refuses heads '{"policy": "p", "seen": 0, "budget": 1, "kept": [[0]]}' \
	"bad:1: \`seen\` is 0: expected a number of tokens, in $heads"

refuses text '{"policy": "p", "budget": 1, "kept": [[1]]}' \
	"bad:1: no \`tokens\` with \`position_shares\`: expected $text"
refuses text '{"policy": "p", "budget": 1, "tokens": ["a"], "position_shares": []}' \
	'bad:1: 1 tokens and 0 shares of positions: expected one for each token'
refuses text '{"policy": "p", "budget": 1, "tokens": ["a", 1], "position_shares": [1, 1]}' \
	'bad:1: token 1 is 1: expected its text'
refuses text '{"policy": "p", "budget": 1, "tokens": ["a"], "position_shares": [1.5]}' \
	'bad:1: the share of position 0 is 1.5: expected a number from 0 to 1'
refuses text '{"policy": "p", "budget": 1, "tokens": ["a"], "position_shares": [1], x}' \
	"bad:1: string or '}' expected near 'x': expected $text"
kvmod plot text run.json --from 21
says 1 'kvmod: --from=21: the prompt has 21 tokens'

refuses latency '{"kept": []}' "bad:1: neither \`comparisons\` of decisions nor \`lengths\`: expected $bench"
refuses latency '{"policy": "p", "comparisons": [{"length": 64, "decision_ms": 0}]}' \
	'bad:1: `layers` is missing: expected a number above 0'
refuses latency '{"policy": "p", "rival": "read", "device": "cpu", "comparisons": [{"length": 64, "layers": 1, "sequences": 1, "decision_ms": {"median": 0}}]}' \
	'bad:1: `median` is 0: expected a time above 0'

# --- where the picture goes ---------------------------------------------------------------------

kvmod plot text run.json -o missing/text.svg
says 1 'kvmod: missing/text.svg: No such file or directory'
kvmod plot text run.json -o "$tmp"
says 1 'kvmod: TMP: Is a directory'
if [ -w /dev/full ]; then
	kvmod plot text run.json -o /dev/full
	says 1 'kvmod: /dev/full: No space left on device'
	try sh -c "'$build/kvmod' plot text run.json >/dev/full"
	says 1 'kvmod: standard output: No space left on device'
fi
# A file that may not grow stays as it was, and nothing lies beside it.
ls | grep -v before >before
cp text.svg limited.svg
cp text.svg whole.svg
tried='plot text, ulimit -f 1'
(
	ulimit -f 1
	exec "$build/kvmod" plot text run.json --title other -o limited.svg >"$tmp/out" 2>"$tmp/err"
)
status=$?
says 1 'kvmod: limited.svg: File too large'
cmp -s whole.svg limited.svg || fail 'a half file'
rm limited.svg whole.svg
ls | grep -v before | grep -v after >after
cmp -s before after || fail "left behind: $(diff before after)"
# A link stays a link, and the file behind it keeps its permissions.
: >target.svg
chmod 640 target.svg
ln -s target.svg link.svg
kvmod plot text run.json -o link.svg
drawn link.svg
[ -h link.svg ] && cmp -s text.svg target.svg || fail 'the link is gone'
[ "$(stat -c %a target.svg)" = 640 ] || fail "the mode is $(stat -c %a target.svg)"
if [ "$(id -u)" -ne 0 ]; then
	mkdir closed
	chmod 555 closed
	kvmod plot text run.json -o closed/text.svg
	says 1 'kvmod: closed/text.svg: Permission denied'
fi

# Without gnuplot text is drawn; charts say what to install.
mkdir empty
printf "$(line 10 10 0.1)" >bad
try env PATH="$tmp/empty" "$build/.libs/kvmod" plot text run.json -o without.svg
if [ "$status" -ne 0 ]; then
	try env PATH="$tmp/empty" LD_LIBRARY_PATH="$build/.libs" "$build/.libs/kvmod" plot text run.json -o without.svg
fi
drawn without.svg
try env PATH="$tmp/empty" LD_LIBRARY_PATH="$build/.libs" "$build/.libs/kvmod" plot curve bad -o none.svg
says 1 'kvmod: gnuplot draws this picture, and was not found: install the package gnuplot-nox'
[ ! -e none.svg ] || fail 'a picture all the same'

# --- mistakes on the command line ---------------------------------------------------------------

kvmod plot
says 2 'kvmod: expected a command (see `kvmod plot --help`)'
kvmod plot curv
says 2 'kvmod: unknown command `plot curv`; did you mean `curve`? (see `kvmod plot --help`)'
kvmod plot curve
says 2 'kvmod: expected the files to draw (see `kvmod plot curve --help`)'
kvmod plot text
says 2 'kvmod: expected one FILE, not 0 (see `kvmod plot text --help`)'
kvmod plot heads a b
says 2 'kvmod: expected one FILE, not 2 (see `kvmod plot heads --help`)'
kvmod plot text run.json --width 20
says 2 'kvmod: --width=20: expected 480 to 10000 (see `kvmod plot text --help`)'
kvmod plot heads run.json --height 20000
says 2 'kvmod: --height=20000: expected 200 to 10000 (see `kvmod plot heads --help`)'
kvmod plot text run.json --from 5 --to 5
says 2 'kvmod: --to=5: expected more than --from, 5 (see `kvmod plot text --help`)'
kvmod plot text run.json -o ''
says 2 'kvmod: --output=: expected the name of a file (see `kvmod plot text --help`)'
kvmod plot text run.json --title "$(printf 'caf\351')"
says 2 'kvmod: --title=caf\xe9: expected UTF-8 text (see `kvmod plot text --help`)'
finish
