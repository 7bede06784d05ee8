#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# eval, with an engine that says the prompt back as far as its cache still has it, and, if there
# is one, with the default model.
. "${srcdir:-.}/tests/cli/lib.sh"

cat >"$tmp/data" <<'END'
{"id": "a", "task": "one", "prompt": "twenty-four letters long", "answer": "twenty-four letters long", "metric": "f1"}
{"id": "b", "task": "two", "prompt": "what is kept is said, what is not is dots", "question_at": 22}
{"id": "c", "task": "one", "prompt": "a third text for the same task", "answers": ["no", "third text"], "metric": "f1", "question_at": 8}
END

# eval ARGUMENT... - on these prompts.
eval_on() {
	kvmod eval --data "$tmp/data" "$@"
}

# column NAME LINE - a field of a line of CSV; the first line has the names.
column() {
	awk -F, -v name="$1" -v line="$2" '
		NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i }
		NR == line + 1 { print($at == "" ? "null" : sprintf("%.6g", $at)) }' "$tmp/csv"
}

# no_times FILE - CSV without what depends on the clock.
no_times() {
	cut -d, -f 1-22 "$1"
}

# mistake MESSAGE - the arguments are wrong.
mistake() {
	says 2 "kvmod: $1 (see \`kvmod eval --help\`)"
}

# refuses MESSAGE ARGUMENT... - and leaves the results as they are.
refuses() {
	message=$1
	shift
	cp "$tmp/results" "$tmp/before"
	eval_on --results "$tmp/results" "$@"
	says 1 "kvmod: $message"
	cmp -s "$tmp/results" "$tmp/before" || fail 'the results were touched'
}

# --- what is measured --------------------------------------------------------------------

# same_as_run LINE ARGUMENT... - a line of $tmp/csv, by run.
same_as_run() {
	line=$1
	shift
	kvmod run --compare --json "$@"
	exits 0
	json "kl_mean=$(column kl_mean "$line")" "budget=$(column positions "$line")" \
		"agree=$(column agree "$line")" kl_mean:real
	bytes=$(sed 's/.*"cache_bytes_full": \([0-9]*\), "cache_bytes": \([0-9]*\),.*/\2 \1/' "$tmp/json")
	[ "$(echo "$bytes" | awk '{ printf "%.6g", $1 / $2 }')" = "$(column bytes "$line")" ] ||
		fail "bytes are not $bytes"
}

half='policy streamingllm.budget=0.5'
head -n 1 "$tmp/data" >"$tmp/first"
kvmod eval --data "$tmp/first" --csv streamingllm:budget=0.5 fullkv
exits 0
: | err
cp "$tmp/out" "$tmp/csv"
[ "$(wc -l <"$tmp/csv")" -eq 3 ] || fail 'not a line for each policy'
# Of 24 tokens of the answer half are dots, and two words of four are left.
[ "$(column score_mean 1)" = 0.4 ] || fail "the score is $(column score_mean 1)"
[ "$(column score_full 1)" = 1 ] || fail "the full score is $(column score_full 1)"
[ "$(column difference 1)" = -0.6 ] || fail "the difference is $(column difference 1)"
same_as_run 1 --policy streamingllm -o "$half" 'twenty-four letters long'
same_as_run 2 --policy fullkv 'twenty-four letters long'

printf '{"context": "twenty-four letters long\\n\\n", "question": "one"}\n' >"$tmp/context"
printf 'twenty-four letters long\n' >"$tmp/text"
kvmod eval --data "$tmp/context" --csv --context-first streamingllm:budget=0.5
exits 0
cp "$tmp/out" "$tmp/csv"
kvmod run --compare --json --policy streamingllm -o "$half" --context "$tmp/text" one
exits 0
json "kl_mean=$(column kl_mean 1)" "agree=$(column agree 1)"

# By task, and over all; CSV and JSON are the table in full.
eval_on --csv --answer 40 streamingllm:budget=0.5 'snapkv:budget=0.5,window=4'
exits 0
: | err
cp "$tmp/out" "$tmp/csv"
cp "$tmp/out" "$tmp/whole"
eval_on --json --answer 40 streamingllm:budget=0.5 'snapkv:budget=0.5,window=4'
exits 0
: | err
json results.0.task=one results.0.case=streamingllm:budget=0.5 results.0.policy=streamingllm \
	results.1.case=snapkv:budget=0.5,window=4 results.2.task=two results.4.task=null \
	results.0.prompts=2 results.2.prompts=1 results.4.prompts=3 results.4.failed=0 results.4.skipped=0 \
	results.2.score=null settings.engine=fake settings.answer=40 settings.context_first=false
cp "$tmp/json" "$tmp/out"
# The name of snapkv's case has a comma: its fields stand one further.
for line in 1 3 5; do
	i=$((line - 1))
	json "results.$i.kl.mean=$(column kl_mean $line)" "results.$i.kl.worst=$(column kl_worst $line)" \
		"results.$i.kl.p90=$(column kl_p90 $line)" "results.$i.kl.low=$(column kl_low $line)" \
		"results.$i.kl.high=$(column kl_high $line)" \
		"results.$i.positions.mean=$(column positions $line)" \
		"results.$i.bytes.mean=$(column bytes $line)" "results.$i.agree.mean=$(column agree $line)"
	cp "$tmp/json" "$tmp/out"
done
json "results.4.score.mean=$(column score_mean 5)" "results.4.difference.mean=$(column difference 5)"
eval_on --answer 40 streamingllm:budget=0.5 'snapkv:budget=0.5,window=4'
exits 0
: | err
[ "$(grep -c '^| streamingllm:budget=0.5 ' "$tmp/out")" -eq 3 ] || fail 'not three tables'
grep -qx 'all tasks' "$tmp/out" || fail 'nothing over all'
for line in 1 3 5; do
	has " $(column kl_mean $line | awk '{ printf "%.4f", $1 }') |"
	has " $(column positions $line | awk '{ printf "%.1f%%", 100 * $1 }') |"
done
# --prompts takes some, --answer=0 scores none, and the configured policy is the default.
eval_on --csv --prompts 1 --answer 0 -o kvmod.policy=streamingllm
exits 0
[ "$(wc -l <"$tmp/out")" -eq 2 ] || fail 'not one prompt and policy'
grep -q '^"one","streamingllm",1,0,0,' "$tmp/out" || fail 'another policy'

# --- results ---------------------------------------------------------------------------------

all='streamingllm:budget=0.5 snapkv:budget=0.5,window=4'
# shellcheck disable=SC2086 # words
eval_on --csv --answer 40 --results "$tmp/results" $all
exits 0
no_times "$tmp/whole" >"$tmp/expected-csv"
no_times "$tmp/out" | cmp -s - "$tmp/expected-csv" || fail 'another table with --results'
[ "$(wc -l <"$tmp/results")" -eq 7 ] || fail 'not a line for each result'
cp "$tmp/results" "$tmp/whole-results"
# Nothing is run again, and even the times are the same.
cp "$tmp/out" "$tmp/again"
# shellcheck disable=SC2086
eval_on --csv --answer 40 --results "$tmp/results" -o "engine fake.notes=$tmp/notes" $all
says 1 "kvmod: TMP/results:1: these are results of other settings: engine fake.notes was not set, and is \"TMP/notes\""
# shellcheck disable=SC2086
eval_on --csv --answer 40 --results "$tmp/results" $all
exits 0
cmp -s "$tmp/out" "$tmp/again" || fail 'results are not read back'
cmp -s "$tmp/results" "$tmp/whole-results" || fail 'complete results were touched'
# A part of it, in another order, and a policy more.
eval_on --csv --answer 40 --results "$tmp/results" fullkv streamingllm:budget=0.5
exits 0
[ "$(wc -l <"$tmp/results")" -eq 10 ] || fail 'not three results more'

# Killed wherever: with each number of whole lines, and with half a line at the end.
for lines in 0 1 2 4 6; do
	for half_line in '' '{"id":"b","dig' '{"kvmod_ev'; do
		head -n $lines "$tmp/whole-results" >"$tmp/results"
		printf %s "$half_line" >>"$tmp/results"
		[ "$lines:$half_line" != '0:{"id":"b","dig' ] || continue
		# shellcheck disable=SC2086
		eval_on --csv --answer 40 --results "$tmp/results" $all
		exits 0
		no_times "$tmp/out" | cmp -s - "$tmp/expected-csv" || fail "another table after $lines lines"
		[ "$(wc -l <"$tmp/results")" -eq 7 ] || fail "not 7 lines after $lines"
	done
done
rm "$tmp/results"
for i in 1 2 3; do
	# shellcheck disable=SC2086
	"$build/kvmod" eval --data "$tmp/data" --answer 40 -o 'engine fake.delay=10' \
		--results "$tmp/results" $all >/dev/null 2>&1 &
	pid=$!
	sleep 0.4
	kill -9 $pid
	wait $pid 2>/dev/null
done
# shellcheck disable=SC2086
eval_on --csv --answer 40 -o 'engine fake.delay=10' --results "$tmp/results" $all
exits 0
no_times "$tmp/out" | cmp -s - "$tmp/expected-csv" || fail 'another table after kill -9'

# --- results that are not ours ---------------------------------------------------------------------

cp "$tmp/whole-results" "$tmp/results"
refuses 'TMP/results:1: these are results of other settings: answer was 40, and is 128' fullkv
refuses 'TMP/results:1: these are results of other settings: raw was false, and is true' \
	--answer 40 --raw fullkv
refuses 'TMP/results:1: these are results of other settings: tokens was 48, and is 4' \
	--answer 40 --tokens 4 fullkv
refuses 'TMP/results:1: these are results of other settings: kvmod.leave_below was "0", and is "9"' \
	--answer 40 -o kvmod.leave_below=9 fullkv
sed 's/third text for/third text of/' "$tmp/data" >"$tmp/changed"
cp "$tmp/results" "$tmp/before"
kvmod eval --data "$tmp/changed" --answer 40 --results "$tmp/results" fullkv streamingllm:budget=0.5
says 1 'kvmod: TMP/results: has a result of another prompt c: expected the data that it began with'
cmp -s "$tmp/results" "$tmp/before" || fail 'the results were touched'
sed '1s/"kvmod_eval":1/"kvmod_eval":2/' "$tmp/whole-results" >"$tmp/results"
refuses 'TMP/results:1: expected results of `kvmod eval`' --answer 40 fullkv
echo '{"id": "a", "case": "b"}' >"$tmp/results"
refuses 'TMP/results:1: expected results of `kvmod eval`' fullkv
echo '# Notes' >"$tmp/results"
refuses "TMP/results:1: '[' or '{' expected near '#', expected a result of \`kvmod eval\`" fullkv
# Nor is text without a line's end taken for half of one.
printf 'a precious word' >"$tmp/results"
refuses 'TMP/results:1: expected results of `kvmod eval`' fullkv
{ head -n 2 "$tmp/whole-results"; echo '{"id": 3}'; } >"$tmp/results"
refuses 'TMP/results:3: no "id" or "case", expected a result of `kvmod eval`' --answer 40 fullkv
cp "$tmp/data" "$tmp/results"
refuses 'TMP/results:1: expected results of `kvmod eval`' fullkv
mkdir "$tmp/folder"
eval_on --results "$tmp/folder" fullkv
says 1 'kvmod: TMP/folder: Is a directory'
eval_on --results /dev/full fullkv
says 1 'kvmod: /dev/full: expected a regular file'

# Two at once.
cp "$tmp/whole-results" "$tmp/results"
if command -v flock >/dev/null; then
	tried='eval, while another writes'
	flock "$tmp/results" "$build/kvmod" eval --data "$tmp/data" --answer 40 --results "$tmp/results" \
		fullkv >"$tmp/out" 2>"$tmp/err"
	status=$?
	says 1 'kvmod: TMP/results: another `kvmod eval` writes to it'
	cmp -s "$tmp/results" "$tmp/whole-results" || fail 'the results were touched'
fi

# A full disk: a limit of 2 blocks has room for the first line and a part of the results.
rm "$tmp/results"
(
	trap '' XFSZ
	ulimit -f 2
	"$build/kvmod" eval --data "$tmp/data" --answer 40 --results "$tmp/results" fullkv \
		>/dev/null 2>"$tmp/limited-err"
	echo $? >"$tmp/status"
) 2>/dev/null
if [ -s "$tmp/limited-err" ]; then
	tried='eval, on a full disk'
	status=$(cat "$tmp/status")
	exits 1
	cp "$tmp/limited-err" "$tmp/err"
	echo 'kvmod: TMP/results: File too large' | err
	[ "$(tail -c 1 "$tmp/results" | od -An -c | tr -d ' ')" = '\n' ] || fail 'half a line is left'
	eval_on --csv --answer 40 --results "$tmp/results" fullkv
	exits 0
else
	fail 'a limit of the file size had no effect'
fi
"$build/kvmod" eval --data "$tmp/data" fullkv >/dev/full 2>"$tmp/err"
status=$?
tried='eval >/dev/full'
exits 1
grep -q 'No space left on device' "$tmp/err" || fail 'a full disk without a word'

# --- data ----------------------------------------------------------------------------------------

kvmod eval --data "$tmp/nothing" fullkv
says 1 'kvmod: TMP/nothing: No such file or directory'
: >"$tmp/empty"
kvmod eval --data "$tmp/empty" fullkv
says 1 'kvmod: TMP/empty: empty, expected a JSON object in each line'
{ head -n 1 "$tmp/data"; echo '{"prompt": 1}'; echo '{"prompt": "b", "answer": "b", "metric": "f2"}'; } >"$tmp/broken"
kvmod eval --data "$tmp/broken" --csv fullkv
exits 1
[ "$(grep -c '^kvmod: ' "$tmp/err")" -eq 3 ] || fail "not three messages: $(cat "$tmp/err")"
grep -q '/broken:2: ' "$tmp/err" || fail 'no word of line 2'
grep -q '/broken:3: .*f2' "$tmp/err" || fail 'no word of the metric'
grep -qx 'kvmod: 2 broken lines were left out' "$tmp/err" || fail 'not counted'
grep -q '^"one","fullkv",1,0,0,1,1,0,' "$tmp/out" || fail 'the rest did not go on'
eval_on --csv --context-first fullkv
exits 0
grep -q 'kvmod: 1 prompts without a question_at were left out' "$tmp/err" || fail 'not counted'

# What is too long is counted, and is no failure.
eval_on --csv --tokens 4 --answer 4 -o 'engine fake.context=40' fullkv
exits 0
: | err
cut -d, -f 1-5 "$tmp/out" >"$tmp/csv" && cp "$tmp/csv" "$tmp/out"
out <<'END'
task,case,prompts,failed,skipped
"one","fullkv",2,0,0
"two","fullkv",0,0,1
"","fullkv",2,0,1
END
eval_on --tokens 4 --answer 4 -o 'engine fake.context=40' fullkv
has '0, 1 too long |'

# --- failures -------------------------------------------------------------------------------------

# h2o wants column sums, which this engine does not have: the others are measured.
eval_on --csv streamingllm:budget=0.5 h2o fullkv
exits 1
err <<'END'
kvmod: error: policy h2o: layer 0 comes without column sums; the cache stays whole
kvmod: error: policy h2o: layer 0 comes without column sums; the cache stays whole
kvmod: error: policy h2o: layer 0 comes without column sums; the cache stays whole
kvmod: policies failed on 3 prompts: they are not in the table's numbers
END
grep -q '^"","h2o",0,3,0,,,,' "$tmp/out" || fail 'a failure is not counted, or has numbers'
grep -q '^"","fullkv",3,0,0,1,1,0,' "$tmp/out" || fail 'the others failed, too'
rm -f "$tmp/results"
for i in 1 2; do
	eval_on --csv --results "$tmp/results" h2o
	exits 1
	tail -n 1 "$tmp/err" >"$tmp/last"
	mv "$tmp/last" "$tmp/err"
	echo "kvmod: policies failed on 3 prompts: they are not in the table's numbers" | err
done

eval_on nothing
says 1 'kvmod: nothing: -o kvmod.policy=nothing: no policy `nothing`'
eval_on snapkv:budgett=1
says 1 'kvmod: snapkv:budgett=1: -o policy snapkv.budgett=1: [policy snapkv] has no parameter `budgett`; did you mean `budget`?'
eval_on 'snapkv:budget=10%|x'
says 1 'kvmod: snapkv:budget=x: -o policy snapkv.budget=x: expected a fraction such as 0.25 or 25%, or a count such as 1024, of at least 0'
eval_on snapkv:10%
says 1 'kvmod: snapkv:10%: expected KEY=VALUE at `10%`'
eval_on fullkv fullkv
says 1 'kvmod: fullkv: given twice'
kvmod eval fullkv
mistake 'no prompts: expected --data FILE'
eval_on --csv --json
mistake '--csv and --json: expected one of them'
eval_on --raw --system 'Be brief.'
mistake '--raw and --system: a system message needs a chat template'

# Ctrl-C: what was measured stays, and the rest is done later.
rm -f "$tmp/results"
# shellcheck disable=SC2086
"$build/kvmod" eval --data "$tmp/data" --answer 40 --csv -o 'engine fake.delay=10' \
	--results "$tmp/results" $all >"$tmp/out" 2>"$tmp/err" &
pid=$!
tried='eval, interrupted'
tries=0
until [ "$(wc -l 2>/dev/null <"$tmp/results" || echo 0)" -ge 3 ] || [ $tries -ge 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
kill -INT $pid
wait $pid
status=$?
exits 1
n=$(($(wc -l <"$tmp/results") - 1))
echo "kvmod: stopped on request: $((6 - n)) results are missing; the same command goes on with them" | err
[ "$(head -n 1 "$tmp/out" | cut -c 1-9)" = task,case ] || fail 'no table of what was measured'
# shellcheck disable=SC2086
eval_on --csv --answer 40 -o 'engine fake.delay=10' --results "$tmp/results" $all
exits 0
no_times "$tmp/out" | cmp -s - "$tmp/expected-csv" || fail 'another table after Ctrl-C'

# --- a real model -----------------------------------------------------------------------------------

model=$(sed -n 's/^DEFAULT_MODEL = //p' Makefile)
if [ -f .libs/ggml.so ] && [ -n "$model" ]; then
	cat >"$KVMOD_CONF" <<'END'
[kvmod]
threads = 2
leave_below = 0
END
	context='The lighthouse at Cape Morrow was built in 1871 of grey stone. Its keeper, a quiet woman named Ada Finch, wrote down every ship that passed.'
	question='Who kept the lighthouse?'
	printf '{"context": "%s\\n\\n", "question": "%s", "answer": "Ada Finch", "metric": "f1"}\n' "$context" \
		"$question" >"$tmp/data"
	printf '%s\n\n%s' "$context" "$question" >"$tmp/text"
	printf '%s' "$context" >"$tmp/context"
	eval_on --csv --tokens 4 --answer 6 refreekv snapkv:budget=60% h2o
	exits 0
	: | err
	cp "$tmp/out" "$tmp/csv"
	same_as_run 1 -n 4 --policy refreekv -f "$tmp/text"
	same_as_run 2 -n 4 --policy snapkv -o 'policy snapkv.budget=60%' -f "$tmp/text"
	same_as_run 3 -n 4 --policy h2o -f "$tmp/text"
	eval_on --csv --tokens 4 --answer 6 --context-first refreekv snapkv:budget=60%
	exits 0
	cp "$tmp/out" "$tmp/csv"
	kvmod run --compare --json -n 4 --policy refreekv --context "$tmp/context" "$question"
	json "kl_mean=$(column kl_mean 1)" "agree=$(column agree 1)" "context.budget=$(column positions 1)"
	kvmod run --compare --json -n 4 --policy snapkv -o 'policy snapkv.budget=60%' --context "$tmp/context" \
		"$question"
	json "kl_mean=$(column kl_mean 2)" "agree=$(column agree 2)" "context.budget=$(column positions 2)"
fi
finish
