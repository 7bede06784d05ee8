#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Text as other systems and editors write it: a byte order mark, CR LF; and tokens
# longer than most. The engine repeats its prompt.
. "${srcdir:-.}/tests/cli/lib.sh"

bom=$(printf '\357\273\277')
cr=$(printf '\r')

# tokens N - the prompt had N tokens.
tokens() {
	grep -q "^prefill  $1 tokens" "$tmp/err" || fail "not $1 tokens: $(grep '^prefill' "$tmp/err")"
}

# --- prompts ---------------------------------------------------------------------------------

# The engine's prompt is "<bos><user>...<assistant>".
printf 'two\nlines\n' >"$tmp/plain"
printf '\357\273\277two\r\nlines\r\n' >"$tmp/windows"
for file in plain windows; do
	kvmod run -f "$tmp/$file"
	printf 'two\nlines\n' | out
	tokens 12
	kvmod run <"$tmp/$file"
	printf 'two\nlines\n' | out
	tokens 12
	kvmod run -f "$tmp/$file" and more
	printf 'two\nlines\n\nand more\n' | out
	tokens 22
	kvmod run "$(cat "$tmp/$file")"
	printf 'two\nlines\n' | out
	tokens 12
done
# A CR within a line belongs to the text.
printf 'a\rb\r\n' >"$tmp/cr"
kvmod run -f "$tmp/cr"
printf 'a\rb\n' | out
# Only the first character can be a byte order mark, and only one.
printf '%s%sa%s\n' "$bom" "$bom" "$bom" >"$tmp/boms"
kvmod run -f "$tmp/boms"
printf '%sa%s\n' "$bom" "$bom" | out

# With --raw the text stays as it is, except the byte order mark of an editor.
kvmod run --raw -f "$tmp/windows"
printf 'two\r\nlines\r\n' | out
tokens 13
kvmod run --raw "${bom}two$cr"
printf 'two\r\n' | out
tokens 5

# A byte order mark alone is an empty prompt.
printf '\357\273\277' >"$tmp/empty"
kvmod run -f "$tmp/empty"
says 1 'kvmod: the prompt is empty'
printf '\357\273\277\r\n' >"$tmp/empty"
kvmod run --raw -f "$tmp/empty"
says 1 'kvmod: the prompt is empty'

# --- the system message ----------------------------------------------------------------------

kvmod run --system "$(printf 'a\nb')" hello
tokens 12
kvmod run --system "$(printf '\357\273\277a\r\nb\r')" hello
tokens 12
kvmod run --system "$(printf 'a\377')" hello
says 1 'kvmod: --system: byte 0xff at offset 1: expected UTF-8 text'

# --- a conversation --------------------------------------------------------------------------

printf '\357\273\277one\r\n\r\n/help\r\n/huh \r\ntwo\r\n/quit\r\nthree\r\n' >"$tmp/lines"
kvmod run -i <"$tmp/lines"
exits 0
printf 'one\ntwo\n' | out
tokens 6
grep -q '^/quit or Ctrl-D ends' "$tmp/err" || fail 'no help'
grep -q '^kvmod: unknown command `/huh`: expected /help or /quit$' "$tmp/err" || fail 'not the command that was typed'
for end in '' ' ' "$cr"; do
	printf 'one\n/quit%s\ntwo\n' "$end" >"$tmp/lines"
	kvmod run -i --raw <"$tmp/lines"
	exits 0
	printf 'one\n' | out
	tokens 5
done
printf '/quit' >"$tmp/lines"
kvmod run -i --raw zero <"$tmp/lines"
exits 0
printf 'zero\n' | out

# --- configurations and vectors --------------------------------------------------------------

sed -e "1s/^/$bom/" -e "s/\$/$cr/" "$KVMOD_CONF" >"$tmp/windows.conf"
kvmod run -c "$tmp/windows.conf" hello
exits 0
echo hello | out
mkdir "$tmp/windows.conf.d"
printf '\357\273\277[kvmod]\r\npolicy = streamingllm\r\n[policy streamingllm]\r\nbudget = 4\r\n' >"$tmp/windows.conf.d/10.conf"
kvmod run -c "$tmp/windows.conf" hello
grep -q '^policy   streamingllm' "$tmp/err" || fail 'the drop-in was not read'
vectors=$srcdir/tests/golden/policies.txt
sed -e "1s/^/$bom/" -e "s/\$/$cr/" "$vectors" >"$tmp/windows.txt"
kvmod selftest streamingllm --vectors "$tmp/windows.txt"
exits 0
n=$(grep -c '^policy streamingllm$' "$vectors")
has "golden vectors: $n of $n"

# --- tokens longer than most -----------------------------------------------------------------

for n in 1023 1024 1025 5000; do
	kvmod run -o "engine fake.repeat=$n" ab
	exits 0
	{
		printf "%0${n}d" 0 | tr 0 a
		printf "%0${n}d\n" 0 | tr 0 b
	} | out
done
# An engine that fails and does not say why.
for broken in text:detokenize chat:chat_part; do
	kvmod run -o "engine fake.broken=${broken%:*}" ab
	exits 1
	last=$(tail -n 1 "$tmp/err")
	[ "$last" = "kvmod: engine fake: ${broken#*:}() failed: KVMOD_EIO" ] || fail "said: $last"
done
finish
