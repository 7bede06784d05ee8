#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run --context, with an engine that repeats the whole message, context and question, as far
# as its cache still has it.
. "${srcdir:-.}/tests/cli/lib.sh"

printf 'twenty-four letters long\n' >"$tmp/text"
half='policy streamingllm.budget=0.5'
# cut ARGUMENT... - with the context cut to its ends.
cut() {
	kvmod run --policy streamingllm -o "$half" --context "$tmp/text" "$@"
}

# --- questions ---------------------------------------------------------------------------

# The context is cut to 14 of its 28 tokens, question and answer are not cut at all.
cut one
exits 0
printf 'tw..............ers long\n\none\n' | out
err <<'END'
policy   streamingllm on cpu: budget 0.5000
kept     layers  0..: 14 14 14 14
cache    56.00 KiB before, 28.00 KiB after the cut; resident memory ...
context  28 tokens, N tok/s; decision N ms
question 4 tokens, N tok/s; cache 36.00 KiB of 64.00 KiB
decode   29 tokens, N tok/s
END

# Each question is asked of the same context, and none knows of another.
cut one 'two  three' one
exits 0
out <<'END'
==> one <==
tw..............ers long

one

==> two  three <==
tw..............ers long

two  three

==> one <==
tw..............ers long

one
END
grep -v '^decode' "$tmp/err" >"$tmp/cuts"
mv "$tmp/cuts" "$tmp/err"
err <<'END'
policy   streamingllm on cpu: budget 0.5000
kept     layers  0..: 14 14 14 14
cache    56.00 KiB before, 28.00 KiB after the cut; resident memory ...
context  28 tokens, N tok/s; decision N ms
question 4 tokens, N tok/s; cache 36.00 KiB of 64.00 KiB
question 11 tokens, N tok/s; cache 50.00 KiB of 78.00 KiB
question 4 tokens, N tok/s; cache 36.00 KiB of 64.00 KiB
END
# A question of several lines has a name of one.
cut "$(printf 'one\ntwo\n')" "$(printf 'red\033[31m')"
has '==> one two <=='
has '==> red\x1b[31m <=='
# It is the same text as that of a file and a question.
kvmod run --context "$tmp/text" one
cp "$tmp/out" "$tmp/context"
kvmod run -f "$tmp/text" one
cmp -s "$tmp/out" "$tmp/context" || fail 'not the text of -f'

# Without operands questions are lines of stdin; their number is not known before.
printf 'one\n\n  \r\n/quit\r\n' >"$tmp/lines"
cut <"$tmp/lines"
exits 0
out <<'END'
==> one <==
tw..............ers long

one

==> /quit <==
tw..............ers long

/quit
END
cut </dev/null
exits 1
: | out
[ "$(tail -n 1 "$tmp/err")" = 'kvmod: no question: expected operands or lines of stdin' ] ||
	fail 'not said that there is no question'
grep -q '^context  28 tokens' "$tmp/err" || fail 'the context was not run'
# An answer comes before the next question is read.
mkfifo "$tmp/fifo"
"$build/kvmod" run --context "$tmp/text" <"$tmp/fifo" >"$tmp/out" 2>"$tmp/err" &
pid=$!
exec 3>"$tmp/fifo"
echo one >&3
tried='run --context, with a fifo'
tries=0
until grep -q '^one$' "$tmp/out" || [ $tries -ge 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
grep -q '^one$' "$tmp/out" || fail 'no answer before the end of stdin'
exec 3>&-
wait $pid
status=$?
exits 0

# --- where a context comes from ------------------------------------------------------------

kvmod run --context - one <"$tmp/text"
exits 0
printf 'twenty-four letters long\n\none\n' | out
printf '\357\273\277two\r\nlines\r\n' >"$tmp/dos"
kvmod run --context "$tmp/dos" one
printf 'two\nlines\n\none\n' | out
# --raw: all as it is, and no template.
kvmod run --raw --context "$tmp/text" '?'
printf 'twenty-four letters long\n?\n' | out
kvmod run --raw --context "$tmp/text" 'one <assistant> two'
printf 'twenty-four letters long\none \n' | out
kvmod run --context "$tmp/text" 'one <assistant> two'
printf 'twenty-four letters long\n\none <assistant> two\n' | out
kvmod run --system 'Be brief.' --context "$tmp/text" one
exits 0
grep -q '^context  38 tokens' "$tmp/err" || fail 'no system message before the context'
grep -q '^question 4 tokens' "$tmp/err" || fail 'a system message in the question'

kvmod run --context "$tmp/nothing" one
says 1 'kvmod: TMP/nothing: No such file or directory'
kvmod run --context "$tmp" one
says 1 'kvmod: TMP: a directory, expected a regular file, a pipe or a terminal'
: >"$tmp/empty"
kvmod run --context "$tmp/empty" one
says 1 'kvmod: TMP/empty: the context is empty'
printf ' \n\t\n' >"$tmp/empty"
kvmod run --raw --context "$tmp/empty" one
says 1 'kvmod: TMP/empty: the context is empty'
kvmod run --context - one </dev/null
says 1 'kvmod: stdin: the context is empty'
printf 'ab\000cd' >"$tmp/junk"
kvmod run --context "$tmp/junk" one
says 1 'kvmod: TMP/junk: byte 0x00 at offset 2: expected UTF-8 text'
printf 'ab\351cd' >"$tmp/junk"
kvmod run --context "$tmp/junk" one
says 1 'kvmod: TMP/junk: byte 0xe9 at offset 2: expected UTF-8 text'

# Questions are checked before anything is run.
kvmod run --context "$tmp/text" one ' '
says 1 'kvmod: question 2 is empty'
kvmod run --context "$tmp/text" "$(printf 'ab\351')" two
says 1 'kvmod: question 1: byte 0xe9 at offset 2: expected UTF-8 text'
# A line that is wrong costs its own answer.
printf 'one\nab\351\ntwo\n' >"$tmp/lines"
kvmod run --context "$tmp/text" <"$tmp/lines"
exits 1
[ "$(grep -c '^==>' "$tmp/out")" -eq 2 ] || fail 'not two answers'
grep -qx 'kvmod: stdin: byte 0xe9 at offset 2: expected UTF-8 text' "$tmp/err" ||
	fail 'no word of the bad line'

# --- the length of the model's context ------------------------------------------------------

kvmod run -o 'engine fake.context=20' --context "$tmp/text" one
says 1 'kvmod: 28 new and 0 cached tokens exceed the context of 20'
# One question does not fit, the others do; the answer shrinks to the room.
kvmod run -o 'engine fake.context=40' --context "$tmp/text" hi 'far longer than fits' ho
exits 1
printf '==> hi <==\ntwenty-fou\n\n==> ho <==\ntwenty-fou\n' | out
grep '^kvmod: ' "$tmp/err" >"$tmp/talk"
mv "$tmp/talk" "$tmp/err"
echo 'kvmod: 21 new and 28 cached tokens exceed the context of 40' | err
kvmod run -o 'engine fake.context=40' -n 30 --context "$tmp/text" hi
exits 1
: | out
grep -qx 'kvmod: 31 tokens of prompt and 30 of answer exceed the context of 40' "$tmp/err" ||
	fail 'the answer has room'
cut -n 3 one two
printf '==> one <==\ntw.\n\n==> two <==\ntw.\n' | out

# --- figures ------------------------------------------------------------------------------

cut --json one
exits 0
: | err
json --only model=Echo policy=streamingllm device=cpu question=one prompt_tokens=4 \
	generated_tokens=29 "text=$(printf 'tw..............ers long\n\none')" \
	kept.0.0=18 kept.3.1=18 seen=32 budget=0.5625 cache_bytes_full=65536 cache_bytes=36864 \
	decode_cuts=0 prefill_tok_s:real decision_ms=0 decode_tok_s:real \
	context.tokens=28 context.kept.0.0=14 context.kept.3.1=14 context.budget=0.5 \
	context.cache_bytes_full=57344 context.cache_bytes=28672 context.prefill_tok_s:real \
	context.decision_ms:real
# Positions from the start of the context on, for each question anew.
printf 'a c' >"$tmp/short"
kvmod run --policy streamingllm -o "$half" -o 'policy streamingllm.sinks=1' --context "$tmp/short" \
	--json --positions -n 1 one two
exits 0
sed 's/.*\("tokens": .*\)/{\1/' "$tmp/out" >"$tmp/words" && mv "$tmp/words" "$tmp/out"
out <<'END'
{"tokens": ["", "", "a", " ", "c", "\n", "\n", "o", "n", "e", ""], "position_shares": [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]}
{"tokens": ["", "", "a", " ", "c", "\n", "\n", "t", "w", "o", ""], "position_shares": [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]}
END
# 14 of the 29 tokens that follow a token of the answer are gone, as in run.test.sh.
cut --compare --json one two
exits 0
[ "$(wc -l <"$tmp/out")" -eq 2 ] || fail 'not an object for each question'
cp "$tmp/out" "$tmp/two"
for question in one two; do
	head -n 1 "$tmp/two" >"$tmp/out"
	sed -i 1d "$tmp/two"
	json question=$question kl_mean=7.72391 kl_max=15.9995 agree=0.517241 budget=0.5625 \
		"full_text=$(printf 'twenty-four letters long\n\n%s' $question)" \
		full_decode_tok_s:real context.budget=0.5
done
cut --compare one two
exits 0
[ "$(grep -c '^full     cache 64.00 KiB, cut 36.00 KiB; ' "$tmp/err")" -eq 2 ] ||
	fail 'not compared with the whole context and the question'
[ "$(grep -c '^compare  KL divergence mean 7.72391, max 15.99953 nats; .* 51.7% of 29$' "$tmp/err")" -eq 2 ] ||
	fail 'another comparison'
kvmod run --compare --json --context "$tmp/text" one
json kl_mean=0 kl_max=0 agree=1

# Both caches of the context are made once, and those of a question for each.
notes="engine fake.notes=$tmp/notes"
kvmod run -o "$notes" --compare --context "$tmp/text" one three
exits 0
[ "$(sed 's/prompt //' "$tmp/notes" | xargs)" = '0-28 0-28 28-32 28-32 28-34 28-34' ] ||
	fail "run were $(xargs <"$tmp/notes")"

# What the template puts before the text is known: here two tokens, with a system message 12.
# kvzip keeps what repeating the context needs, which in this engine is its digits.
printf 'a1b2c3d4e5f6g7h8i9j0\n' >"$tmp/digits"
zip='policy kvzip.budget=0.5'
: >"$tmp/notes"
kvmod run --policy kvzip -o "$zip" -o "$notes" -o 'policy kvzip.sinks=2' --context "$tmp/digits" a b
exits 0
has '.1.2.3.4.5.6.7.8.9.0'
[ "$(xargs <"$tmp/notes")" = 'prompt 0-24 reread 2-24 prompt 24-26 prompt 24-26' ] ||
	fail "run were $(xargs <"$tmp/notes")"
: >"$tmp/notes"
kvmod run --policy kvzip -o "$zip" -o "$notes" --system 'Be brief.' -i -f "$tmp/digits" <"$tmp/text"
exits 0
[ "$(head -n 2 "$tmp/notes" | xargs)" = 'prompt 0-33 reread 12-33' ] || fail "run were $(xargs <"$tmp/notes")"
[ "$(grep -c '^reread 12-' "$tmp/notes")" -eq 2 ] || fail 'the opening is not that of the first prompt'
: >"$tmp/notes"
kvmod run --raw --policy kvzip -o "$zip" -o "$notes" -f "$tmp/digits"
exits 0
[ "$(xargs <"$tmp/notes")" = 'prompt 0-22 reread 0-22' ] || fail "run were $(xargs <"$tmp/notes")"

# replay reads a context again, and asks it; an answer needs capitals, in this engine. What both
# need is kept, and the loss is that of 10 positions of each head, of 36 thousandths for all heads.
printf 'a1Bb2Cc3Dd4Ee5Ff6Gg7Hh8Ii9J\n' >"$tmp/mixed"
# later ARGUMENT... - with replay, which may lose much.
later() {
	: >"$tmp/notes"
	kvmod run --policy replay -o 'policy replay.shortest=0' -o 'policy replay.sinks=2' \
		-o 'policy replay.window=1' -o 'policy replay.store=same' -o 'policy replay.later_loss=5' \
		-o 'policy replay.replay_rows=9' -o 'engine fake.replay=yes' -o "$notes" "$@"
}
later --context "$tmp/mixed" one
exits 0
printf '.1B.2C.3D.4E.5F.6G.7H.8I.9J.\none\n' | out
err <<'END'
policy   replay on cpu: budget 0.6774
kept     layers  0..: 21 21 21 21
cache    62.00 KiB before, 42.00 KiB after the cut; resident memory ...
context  31 tokens, N tok/s; decision N ms; replayed loss 0.3600 nats a token
question 4 tokens, N tok/s; cache 50.00 KiB of 70.00 KiB
decode   32 tokens, N tok/s
END
[ "$(uniq "$tmp/notes" | head -n 4 | xargs)" = 'prompt 0-31 reread 2-31 ask 31-40 replay 22-31' ] ||
	fail "run were $(xargs <"$tmp/notes")"
# The question that comes then is neither asked for again nor cut.
later --json --context "$tmp/mixed" one two
exits 0
[ "$(grep -c -e ask -e reread "$tmp/notes")" -eq 2 ] || fail "run were $(xargs <"$tmp/notes")"
head -n 1 "$tmp/out" >"$tmp/first"
mv "$tmp/first" "$tmp/out"
json policy=replay question=one "text=$(printf '.1B.2C.3D.4E.5F.6G.7H.8I.9J.\none')" \
	kept.0.0=25 context.kept.0.0=21 context.kept.3.1=21 context.budget:real
later -o 'policy replay.answer_weight=0' --context "$tmp/mixed" one
printf '.1..2..3..4..5..6..7..8..9..\none\n' | out
# Where the question is there, it says what is needed.
later -f "$tmp/mixed" one
exits 0
[ "$(sed 's/ .*//' "$tmp/notes" | uniq | xargs)" = 'prompt replay' ] || fail "run were $(xargs <"$tmp/notes")"

# A policy that cuts while decoding does so in each answer.
kvmod run --policy streamingllm -o 'policy streamingllm.budget=8' -o 'policy streamingllm.decode_every=4' \
	--json --context "$tmp/text" one
exits 0
json kept.0.0=8 context.kept.0.0=8 decode_cuts=7
kvmod run --policy streamingllm -o "$half" -o kvmod.leave_below=28 --context "$tmp/text" one
exits 0
grep -qx 'policy   streamingllm on cpu: budget 1.0000; so short a sequence stays whole (\[kvmod\] leave_below)' \
	"$tmp/err" || fail 'not left whole, or not said so'
grep -q '^question 4 tokens, .*; cache 64.00 KiB of 64.00 KiB$' "$tmp/err" ||
	fail 'the context and its question together were cut'

# --- sampling -------------------------------------------------------------------------------

# Each question starts from the seed: its answer does not depend on those before.
kvmod run --temperature 5 --seed 1 --context "$tmp/text" alpha
cp "$tmp/out" "$tmp/first"
kvmod run --temperature 5 --seed 1 --context "$tmp/text" beta alpha
sed '1,/==> alpha/d' "$tmp/out" | cmp -s - "$tmp/first" || fail 'the same question, another answer'

# --- a conversation ---------------------------------------------------------------------------

# The first question ends the context's message; the others have messages of their own.
printf 'two\n/quit\nthree\n' >"$tmp/lines"
cut -i one <"$tmp/lines"
exits 0
printf 'tw..............ers long\n\none\ntwo\n' | out
grep -q '^question 4 tokens, .*; cache 36.00 KiB of 64.00 KiB$' "$tmp/err" || fail 'another first turn'
# The second has the end of the answer, a pending token, the marks of user and assistant.
grep -q '^question 6 tokens, .*; cache 106.0 KiB of 134.0 KiB$' "$tmp/err" || fail 'another second turn'
[ "$(grep -c '^kept ' "$tmp/err")" -eq 1 ] || fail 'cut again'
# A question that fails leaves the message open for the next.
printf 'far longer than fits\nhi\n' >"$tmp/lines"
kvmod run -i -o 'engine fake.context=40' --context "$tmp/text" <"$tmp/lines"
exits 1
echo 'twenty-fou' | out
kvmod run -i --context "$tmp/text" </dev/null
exits 0
: | out

# --- what does not go together -----------------------------------------------------------------

usage() {
	says 2 "kvmod: $1 (see \`kvmod run --help\`)"
}
kvmod run --context "$tmp/text" -f "$tmp/text" one
usage '--context cannot be combined with -f: questions are operands or lines of stdin'
kvmod run --context -
usage '--context=- reads stdin: expected questions as operands, and no -i'
kvmod run --context - -i one
usage '--context=- reads stdin: expected questions as operands, and no -i'
kvmod run --context "$tmp/text" -i --json
usage '-i cannot be combined with --json or --compare'
kvmod run --context "$tmp/text" -i --compare
usage '-i cannot be combined with --json or --compare'
kvmod run -o 'engine fake.broken=chat' --context "$tmp/text" one
says 1 'kvmod: engine fake: chat_part() failed: KVMOD_EIO'

# A policy that fails costs compression only.
kvmod run --policy snapkv -o 'engine fake.broken=request' --context "$tmp/text" one
exits 0
printf 'twenty-four letters long\n\none\n' | out
grep -q 'failed with KVMOD_ENOTSUP; what was to be cut is whole' "$tmp/err" || fail 'not said so'

# --- stdout that breaks, Ctrl-C -------------------------------------------------------------

"$build/kvmod" run --context "$tmp/text" one two >/dev/full 2>"$tmp/err"
status=$?
exits 1
tail -n 1 "$tmp/err" >"$tmp/last"
mv "$tmp/last" "$tmp/err"
echo 'kvmod: standard output: No space left on device' | err

# interrupt WORDS ARGUMENT... - Ctrl-C as soon as stdout has these words.
interrupt() {
	words=$1
	shift
	: >"$tmp/out"
	"$build/kvmod" run -o 'engine fake.delay=20' "$@" >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	tried="run $*, interrupted"
	tries=0
	until grep -q "$words" "$tmp/out" || [ $tries -ge 200 ]; do
		sleep 0.05
		tries=$((tries + 1))
	done
	kill -INT $pid
	wait $pid
	status=$?
	exits 1
}

# What was answered stays, the answer in progress ends, and no other question is asked.
interrupt '^==> two' --context "$tmp/text" one two three
tail -n 1 "$tmp/err" >"$tmp/last"
[ "$(cat "$tmp/last")" = 'kvmod: stopped on request' ] || fail "not said: $(cat "$tmp/last")"
[ "$(head -n 4 "$tmp/out")" = "$(printf '==> one <==\ntwenty-four letters long\n\none')" ] ||
	fail 'the first answer is gone'
! grep -q -e '^two$' -e '==> three' "$tmp/out" || fail 'Ctrl-C stopped nothing'
[ "$(grep -c '^decode ' "$tmp/err")" -eq 2 ] || fail 'no report of the answer in progress'
# Every object is one of its own.
interrupt '"question": "one"' --json --context "$tmp/text" one two three
head -n 1 "$tmp/out" >"$tmp/line"
mv "$tmp/line" "$tmp/out"
json question=one generated_tokens=29

printf '%02000d' 0 >"$tmp/zeros"
# While the context is run, and while its full cache is.
"$build/kvmod" run -o 'engine fake.delay=50' --context "$tmp/zeros" one >"$tmp/out" 2>"$tmp/err" &
pid=$!
sleep 0.5
kill -INT $pid
wait $pid
status=$?
tried='run --context, interrupted early'
says 1 'kvmod: stopped before the context was done'
: >"$tmp/notes"
"$build/kvmod" run -o 'engine fake.delay=5' -o "$notes" --compare \
	--context "$tmp/zeros" one >"$tmp/out" 2>"$tmp/err" &
pid=$!
tries=0
until [ "$(grep -c prompt "$tmp/notes")" -eq 2 ] || [ $tries -ge 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
kill -INT $pid
wait $pid
status=$?
tried='run --context --compare, interrupted early'
says 1 'kvmod: stopped before the context was done'
finish
