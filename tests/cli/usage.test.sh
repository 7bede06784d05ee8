#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Command lines that are wrong, help, and a stdout that takes nothing.
. "${srcdir:-.}/tests/cli/lib.sh"

kvmod
says 2 'kvmod: which command? (see `kvmod --help`)'
kvmod rnu
says 2 'kvmod: no command `rnu`; did you mean `run`? (see `kvmod --help`)'
kvmod frobnicate
says 2 'kvmod: no command `frobnicate` (see `kvmod --help`)'
kvmod bench decison
says 2 'kvmod: no command `bench decison`; did you mean `decision`? (see `kvmod bench --help`)'

kvmod run --polcy x
says 2 'kvmod: no option `--polcy`; did you mean `--policy`? (see `kvmod run --help`)'
kvmod run -x
says 2 'kvmod: no option `-x` (see `kvmod run --help`)'
kvmod run --json=yes
says 2 'kvmod: `--json` takes no value (see `kvmod run --help`)'
kvmod run hello --policy
says 2 'kvmod: --policy needs a value: NAME (see `kvmod run --help`)'
kvmod run -n many hello
says 2 'kvmod: --tokens=many: expected a whole number from 0 on, such as 512 or 4k (see `kvmod run --help`)'
kvmod run -n 0 hello
says 2 'kvmod: -n 0: an answer has at least one token (see `kvmod run --help`)'
kvmod run --temperature nan hello
says 2 'kvmod: --temperature=nan: not a number (see `kvmod run --help`)'
kvmod run --top-p 2 hello
says 2 'kvmod: --top-p=2: above 0 and at most 1 was expected (see `kvmod run --help`)'
kvmod run --raw --system be hello
says 2 'kvmod: --raw runs the text as it is: it has no --system (see `kvmod run --help`)'
kvmod run -i --json
says 2 'kvmod: -i goes with neither --json nor --compare (see `kvmod run --help`)'
kvmod info
says 2 'kvmod: one MODULE or FILE was expected (see `kvmod info --help`)'
kvmod check it
says 2 'kvmod: `it`: no operand was expected (see `kvmod check --help`)'
kvmod list everything
says 2 'kvmod: `everything`: modules, policies, engines or devices was expected (see `kvmod list --help`)'

kvmod --version
exits 0
has 'kvmod '
for command in list info check run bench new; do
	kvmod $command --help
	exits 0
	has "Usage: kvmod $command"
done

# A full disk, and a stdout that is closed.
kvmod --help
"$build/kvmod" --help >/dev/full 2>"$tmp/err"
status=$?
: >"$tmp/out"
says 1 'kvmod: standard output: No space left on device'
"$build/kvmod" --help >&- 2>"$tmp/err"
status=$?
says 1 'kvmod: standard output: Bad file descriptor'
"$build/kvmod" list --json >/dev/full 2>"$tmp/err"
status=$?
says 1 'kvmod: standard output: No space left on device'
finish
