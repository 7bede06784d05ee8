#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run, with an engine that repeats the prompt as far as its cache still has it.
. "${srcdir:-.}/tests/cli/lib.sh"

# --- where prompts come from -----------------------------------------------------------

kvmod run hello, wörld
exits 0
out <<'END'
hello, wörld
END
err <<'END'
policy   fullkv on cpu: budget 1.0000
kept     layers  0..: 16 16 16 16
cache    32.00 KiB before, 32.00 KiB after the cut; resident memory ...
prefill  16 tokens, N tok/s; decision N ms
decode   13 tokens, N tok/s
END

printf 'a long\ntext\n' >"$tmp/text"
kvmod run -f "$tmp/text" and a question
printf 'a long\ntext\n\nand a question\n' | out
kvmod run -f "$tmp/text"
printf 'a long\ntext\n' | out
kvmod run --raw -f "$tmp/text" and a question
printf 'a long\ntext\nand a question\n' | out
kvmod run <"$tmp/text"
printf 'a long\ntext\n' | out
kvmod run -f - and this <"$tmp/text"
printf 'a long\ntext\n\nand this\n' | out

# Special tokens count only with --raw: <assistant> ends what the engine repeats.
kvmod run 'one <assistant> two'
echo 'one <assistant> two' | out
kvmod run --raw 'one <assistant> two'
echo 'one ' | out

# --- what is wrong with prompts -----------------------------------------------------------

kvmod run </dev/null
says 1 'kvmod: the prompt is empty'
kvmod run '  '
says 1 'kvmod: the prompt is empty'
printf 'ab\000cd' >"$tmp/junk"
kvmod run <"$tmp/junk"
says 1 'kvmod: stdin: byte 0x00 at offset 2: expected UTF-8 text'
printf 'ab\351cd' >"$tmp/junk"
kvmod run -f "$tmp/junk"
says 1 'kvmod: TMP/junk: byte 0xe9 at offset 2: expected UTF-8 text'
kvmod run -f "$tmp/nothing"
says 1 'kvmod: TMP/nothing: No such file or directory'
kvmod run -f "$tmp"
says 1 'kvmod: TMP: a directory, expected a regular file, a pipe or a terminal'
kvmod run -o 'engine fake.context=10' 'longer than the context'
says 1 'kvmod: 26 new and 0 cached tokens exceed the context of 10'
kvmod run -o 'engine fake.context=20' -n 40 'fits itself'
says 1 'kvmod: 14 tokens of prompt and 40 of answer exceed the context of 20'
for word in yes on true 1; do
	kvmod run -o 'engine fake.context=20' -o "engine fake.context_override=$word" -n 40 'hello there'
	exits 0
done
for word in no off false 0; do
	kvmod run -o 'engine fake.context=20' -o "engine fake.context_override=$word" -n 40 'hello there'
	says 1 'kvmod: 14 tokens of prompt and 40 of answer exceed the context of 20'
done
kvmod run -o 'engine fake.context=20' 'fits itself'
exits 0
echo 'fits it' | out
# context_override removes the limit of the context, with -n or without.
kvmod run -o 'engine fake.context=20' -o 'engine fake.context_override=yes' 'fits itself'
exits 0
echo 'fits itself' | out
kvmod run -m "$tmp/model.gguf" hello
says 1 'kvmod: TMP/model.gguf: no such model'
kvmod run -o kvmod.engine=fakee hello
exits 1
kvmod run --policy fulkv hello
says 1 'kvmod: -o kvmod.policy=fulkv: no policy `fulkv`; did you mean `fullkv`?'

# --- compressed ---------------------------------------------------------------------------

half='policy streamingllm.budget=0.5'
kvmod run --policy streamingllm -o "$half" 'twenty-four letters long'
exits 0
echo 'tw..............ers long' | out
# 14 of the 24 tokens that follow a token of the answer are gone from the cut cache. Its
# logits are then 16 for '.' and 0 for the next token, those of the full cache the other way
# round: with 261 tokens KL = 16 (e^16 - 1) / (e^16 + 260).
kvmod run --policy streamingllm -o "$half" --compare --json 'twenty-four letters long'
exits 0
: | err
json --only model=Echo policy=streamingllm device=cpu prompt_tokens=27 generated_tokens=24 \
	text:string kept.0.0=13 kept.3.1=13 seen=27 budget:real cache_bytes_full=55296 cache_bytes=26624 \
	decode_cuts=0 prefill_tok_s:real decision_ms:real decode_tok_s:real \
	kl_mean=9.33306 kl_max=15.9995 agree=0.416667 full_decode_tok_s:real \
	'full_text=twenty-four letters long'
kvmod run --policy streamingllm -o "$half" --compare 'twenty-four letters long'
exits 0
echo 'tw..............ers long' | out
grep -qx 'answer   with the full cache: twenty-four letters long' "$tmp/err" ||
	fail 'no answer of the full cache'
kvmod run --json 'keep it'
json --only model=Echo policy=fullkv device=cpu prompt_tokens=10 generated_tokens=7 \
	'text=keep it' kept.0.0=10 kept.3.1=10 seen=10 budget=1 cache_bytes_full=20480 cache_bytes=20480 \
	decode_cuts=0 prefill_tok_s:real decision_ms:real decode_tok_s:real
kvmod run --compare --json 'keep it'
json kl_mean=0 kl_max=0 agree=1 'full_text=keep it'
kvmod run --compare 'keep it'
grep -qx 'answer   the same with the full cache' "$tmp/err" || fail 'not said to be the same'
# The text of each token, control tokens without any, and a character with its last byte.
kvmod run --policy streamingllm -o 'policy streamingllm.budget=50%' -o 'policy streamingllm.sinks=1' \
	--json --positions -n 1 "$(printf 'a "b"\n\303\251')"
exits 0
sed 's/.*\("tokens": .*\)/{\1/' "$tmp/out" >"$tmp/words" && mv "$tmp/words" "$tmp/out"
out <<'END'
{"tokens": ["", "", "a", " ", "\"", "b", "\"", "\n", "", "é", ""], "position_shares": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]}
END
kvmod run -o 'engine fake.broken=request' --policy streamingllm --json --positions -n 1 hello
exits 1
: | out
kvmod run --positions hello
says 2 'kvmod: --positions needs --json, to whose object it adds (see `kvmod run --help`)'
# An answer that fills the context: its last token needs no room there.
kvmod run -o 'engine fake.context=20' --compare 'fits itself'
exits 0
echo 'fits it' | out
grep -q '^compare .* 100.0% of 6$' "$tmp/err" || fail 'not compared up to the context'
grep -qx 'answer   the same with the full cache' "$tmp/err" || fail 'not said to be the same'
kvmod run -o 'engine fake.context=14' --compare --json 'fits itself'
exits 0
json generated_tokens=1 text=f full_text=f kl_mean=0 agree=1

# The report counts what cuts while decoding freed: 27 + 24 tokens seen, 256 bytes each per
# KV head.
bounded='policy streamingllm.budget=8'
kvmod run --policy streamingllm -o "$bounded" -o 'policy streamingllm.decode_every=4' --json \
	'twenty-four letters long'
exits 0
json kept.0.0=8 kept.3.1=8 budget=0.156863 cache_bytes_full=104448 cache_bytes=16384 decode_cuts=6
kvmod run --policy streamingllm -o "$bounded" -o 'policy streamingllm.decode_every=4' \
	'twenty-four letters long'
exits 0
grep -q '^policy   streamingllm on cpu: budget 0.1569$' "$tmp/err" || fail 'the budget of the prompt'
grep -q '^cache    54.00 KiB before, 16.00 KiB after' "$tmp/err" || fail 'not the cut of the prompt'
grep -q '^decode   24 tokens, .* tok/s; 6 cuts, the last left 16.00 KiB of 102.0 KiB$' "$tmp/err" ||
	fail 'no word of the cuts while decoding'
# The prompt is below the budget and stays whole, the answer goes above it.
kvmod run --policy streamingllm -o 'policy streamingllm.budget=16' -o 'policy streamingllm.decode_every=4' \
	--json 'ten bytes.'
json prompt_tokens=13 kept.0.0=16 budget=0.761905 cache_bytes=32768 decode_cuts=2

# --- short prompts are left whole -----------------------------------------------------------

kvmod run --policy random -o kvmod.leave_below=24 'twenty-four letters long'
grep -q '^policy   random on cpu: budget 0.8889$' "$tmp/err" || fail 'the fraction has no floor'
kvmod run --policy random -o kvmod.leave_below=27 'twenty-four letters long'
exits 0
echo 'twenty-four letters long' | out
grep -qx 'policy   random on cpu: budget 1.0000; so short a sequence stays whole (\[kvmod\] leave_below)' \
	"$tmp/err" || fail 'not left whole, or not said so'
kvmod run --policy random -o 'policy random.budget=9' -o kvmod.leave_below=27 --json \
	'twenty-four letters long'
json kept.0.0=9
kvmod run --policy fullkv -o kvmod.leave_below=27 'keep it'
grep -qx 'policy   fullkv on cpu: budget 1.0000' "$tmp/err" || fail 'fullkv needs no excuse'
kvmod run -o kvmod.leave_below=-1 hello
says 1 'kvmod: -o kvmod.leave_below=-1: expected an integer of at least 0'

# --- sampling -------------------------------------------------------------------------------

kvmod run --temperature 5 --seed 1 'a sentence that is said back'
cp "$tmp/out" "$tmp/first"
kvmod run --temperature 5 --seed 1 'a sentence that is said back'
cmp -s "$tmp/out" "$tmp/first" || fail 'the same seed, another answer'
kvmod run --temperature 5 --seed 2 'a sentence that is said back'
! cmp -s "$tmp/out" "$tmp/first" || fail 'another seed, the same answer'
kvmod run --temperature 5 --top-k 1 'a sentence that is said back'
echo 'a sentence that is said back' | out

# --- a conversation -----------------------------------------------------------------------

printf 'first\n\n/help\n/huh\nsecond\n' >"$tmp/lines"
kvmod run -i <"$tmp/lines"
exits 0
printf 'first\nsecond\n' | out
grep -v -e '^[a-z]* *layers' -e '^cache' -e '^prefill' -e '^decode' "$tmp/err" >"$tmp/talk"
mv "$tmp/talk" "$tmp/err"
err <<'END'
policy   fullkv on cpu: budget 1.0000
/quit or Ctrl-D ends the conversation; Ctrl-C ends an answer
kvmod: unknown command `/huh`: expected /help or /quit
policy   fullkv on cpu: budget 1.0000
END
printf 'one\n/quit\ntwo\n' >"$tmp/lines"
kvmod run -i zero <"$tmp/lines"
printf 'zero\none\n' | out
# An answer that -n ended early is complete in the next turn; one bad line does not end the
# conversation.
printf 'abcdef\nx\377\nghi\n' >"$tmp/lines"
kvmod run -i -n 3 <"$tmp/lines"
exits 1
printf 'abc\nghi\n' | out
grep -q 'stdin: byte 0xff at offset 1: expected UTF-8 text' "$tmp/err" || fail 'no word of the bad line'
# At the end of the context one message says what can be done.
printf 'first line\nsecond line\nthird\nfourth\n' >"$tmp/lines"
kvmod run -i -o 'engine fake.context=40' <"$tmp/lines"
exits 1
printf 'first line\nseco\n' | out
grep '^kvmod: ' "$tmp/err" >"$tmp/talk"
mv "$tmp/talk" "$tmp/err"
err <<'END'
kvmod: the conversation fills the context of 40 tokens: start a new one, or drop the oldest tokens: kvmod run -i --policy streamingllm -o 'engine fake.context_override=yes'
kvmod: 9 new and 40 cached tokens exceed the context of 40
kvmod: 10 new and 40 cached tokens exceed the context of 40
END
kvmod run -i -n 20 -o 'engine fake.context=40' <"$tmp/lines"
exits 1
[ "$(grep -c 'drop the oldest tokens' "$tmp/err")" -eq 1 ] || fail 'what can be done is not said once'
# A prompt that is too long by itself does not end a conversation.
echo 'more than the context has' | {
	kvmod run -i -o 'engine fake.context=20'
	says 1 'kvmod: 28 new and 0 cached tokens exceed the context of 20'
}
# The cache is compressed after each prompt.
kvmod run -i --policy streamingllm -o "policy streamingllm.budget=8" <<'END'
a line of text
another line of text
END
exits 0
[ "$(grep -c 'layers  0..: 8 8 8 8' "$tmp/err")" -eq 2 ] || fail 'not cut to 8 after each prompt'

# --- stdout that breaks, Ctrl-C ------------------------------------------------------------

long=$(printf '%0100d' 0)
"$build/kvmod" run "$long" >/dev/full 2>"$tmp/err"
status=$?
: >"$tmp/out"
says 1 'kvmod: standard output: No space left on device'
{
	"$build/kvmod" run -o 'engine fake.delay=5' -f - "$long" 2>"$tmp/err" <"$tmp/text"
	echo $? >"$tmp/status"
} | head -n 1 >"$tmp/out"
status=$(cat "$tmp/status")
exits 1
echo 'a long' | out
echo 'kvmod: standard output: Broken pipe' | err

# interrupt N ARGUMENT... - Ctrl-C as soon as there are N bytes on stdout.
interrupt() {
	n=$1
	shift
	: >"$tmp/out"
	"$build/kvmod" run -o 'engine fake.delay=20' "$@" >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	tries=0
	until [ "$(wc -c <"$tmp/out")" -ge "$n" ] || [ $tries -ge 200 ]; do
		sleep 0.05
		tries=$((tries + 1))
	done
	kill -INT $pid
	wait $pid
	status=$?
	tried="run $*, interrupted"
	exits 1
	grep -q '^kept ' "$tmp/err" || fail 'no report after Ctrl-C'
	tail -n 1 "$tmp/err" >"$tmp/last"
	[ "$(cat "$tmp/last")" = 'kvmod: stopped on request' ] || fail "not said: $(cat "$tmp/last")"
}

interrupt 1 "$long"
grep -q '^0[0]*$' "$tmp/out" || fail "not what was said until then: $(cat "$tmp/out")"
[ "$(wc -c <"$tmp/out")" -lt 100 ] || fail 'Ctrl-C stopped nothing'
# During the comparison: the answer is complete, the comparison is missing.
interrupt 21 --compare 00000000000000000000
echo 00000000000000000000 | out
! grep -q '^compare' "$tmp/err" || fail 'half a comparison'

input=/dev/null
# catches PID - does the process catch Ctrl-C? The program itself does: the shell that
# becomes the program catches Ctrl-C too.
catches() {
	case $(readlink "/proc/$1/exe") in
	*kvmod) ;;
	*) return 1 ;;
	esac
	grep -q '^SigCgt:.*[2367abef]$' "/proc/$1/status"
}
# starts ARGUMENT... - in the background, until Ctrl-C is caught: while it tokenizes.
starts() {
	tried="run $*, interrupted early"
	"$build/kvmod" run "$@" >"$tmp/out" 2>"$tmp/err" <"$input" &
	pid=$!
	until catches $pid || ! kill -0 $pid; do
		sleep 0.01
	done
}

# A step ignores a cancellation that came before it, but still ends at the next chunk.
starts -o 'engine fake.delay=200' "$(printf '%01000d' 0)"
kill -INT $pid
wait $pid
status=$?
says 1 'kvmod: stopped before the prompt was done'
# The second time kills.
starts -o 'engine fake.delay=5000' "$long"
kill -INT $pid
while catches $pid; do
	sleep 0.01
done
kill -INT $pid
wait $pid
status=$?
exits 130
# In the middle of the prompt.
"$build/kvmod" run -o 'engine fake.delay=50' "$(printf '%01000d' 0)" >"$tmp/out" 2>"$tmp/err" &
pid=$!
sleep 1
kill -INT $pid
wait $pid
status=$?
says 1 'kvmod: stopped before the prompt was done'
# In a conversation, which continues as if that prompt had not been given: the rest of the
# answer that -n ended is still due.
until_said() {
	tries=0
	until grep -q "$1" "$2" || [ $tries -ge 200 ]; do
		sleep 0.05
		tries=$((tries + 1))
	done
}
printf 'abcdef\nghi\n' >"$tmp/lines"
kvmod run -i -n 3 <"$tmp/lines"
tidy "$tmp/out" >"$tmp/two"
tidy "$tmp/err" >"$tmp/two.err"
mkfifo "$tmp/fifo"
exec 3<>"$tmp/fifo"
echo abcdef >&3
input=$tmp/fifo
starts -i -n 3 -o 'engine fake.delay=20'
until_said abc "$tmp/out"
printf '%03000d\n' 0 >&3
sleep 0.5
kill -INT $pid
until_said stopped "$tmp/err"
printf 'ghi\n/quit\n' >&3
wait $pid
status=$?
exits 1
out <"$tmp/two"
grep -q '^kvmod: stopped before the prompt was done$' "$tmp/err" || fail 'the prompt was not stopped'
grep -v '^kvmod: stopped' "$tmp/err" >"$tmp/talk"
mv "$tmp/talk" "$tmp/err"
err <"$tmp/two.err"
finish
