#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Wherever a file is named, anything but a regular file is refused at once; prompts may come
# through pipes.
. "${srcdir:-.}/tests/cli/lib.sh"

# timeout ends a command that waits, with the status 124.
patient() {
	try timeout 20 "$build/kvmod" "$@"
	[ "$status" -ne 124 ] || fail 'waits forever'
}
mkfifo "$tmp/fifo" || exit 99

# --- configuration -------------------------------------------------------------------------

patient list -c "$tmp/fifo"
says 1 'kvmod: TMP/fifo: a FIFO, expected a regular file'
patient list -c "$tmp"
says 1 'kvmod: TMP: a directory, expected a regular file'
patient list -c /dev/zero
says 1 'kvmod: /dev/zero: a device, expected a regular file'
patient list -c /dev/null
exits 0
mkdir "$tmp/kvmod.conf.d"
mkfifo "$tmp/kvmod.conf.d/50-late.conf"
patient run -n 1 hello
says 1 'kvmod: TMP/kvmod.conf.d/50-late.conf: a FIFO, expected a regular file'
rm -r "$tmp/kvmod.conf.d"

# --- vectors and modules ---------------------------------------------------------------------

patient selftest "$build/.libs/snapkv.so" --vectors "$tmp/fifo"
exits 1
has 'a FIFO, expected a regular file'
mkfifo "$tmp/module.so"
patient info "$tmp/module.so"
exits 1
patient info /dev/zero
exits 1

# --- prompts ---------------------------------------------------------------------------------

patient run -n 1 -f "$tmp/fifo"
says 1 'kvmod: TMP/fifo: no data came through the pipe'
patient run -n 1 -f "$tmp"
says 1 'kvmod: TMP: a directory, expected a regular file, a pipe or a terminal'
patient run -n 1 -f /dev/zero
says 1 'kvmod: /dev/zero: a device, expected a regular file, a pipe or a terminal'

# A prompt through a pipe, by whatever name, is the same as in a file.
printf 'one two three\n' >"$tmp/prompt"
kvmod run --json -n 1 -f "$tmp/prompt"
exits 0
tokens=$(sed -n 's/.*"prompt_tokens": \([0-9]*\).*/\1/p' "$tmp/out")
for name in - /dev/stdin /dev/fd/0; do
	printf 'one two three\n' | {
		kvmod run --json -n 1 -f "$name"
		exits 0
		json prompt_tokens="$tokens"
	}
done
cat "$tmp/prompt" >"$tmp/fifo" &
sleep 0.1
(
	exec 3<"$tmp/fifo"
	kvmod run --json -n 1 -f /dev/fd/3
	exits 0
	json prompt_tokens="$tokens"
)
wait
finish
