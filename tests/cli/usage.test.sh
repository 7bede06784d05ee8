#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Wrong command lines, help, and a stdout that cannot be written.
. "${srcdir:-.}/tests/cli/lib.sh"

kvmod
says 2 'kvmod: expected a command (see `kvmod --help`)'
kvmod rnu
says 2 'kvmod: unknown command `rnu`; did you mean `run`? (see `kvmod --help`)'
kvmod frobnicate
says 2 'kvmod: unknown command `frobnicate` (see `kvmod --help`)'
kvmod bench decison
says 2 'kvmod: unknown command `bench decison`; did you mean `decision`? (see `kvmod bench --help`)'

kvmod run --polcy x
says 2 'kvmod: unknown option `--polcy`; did you mean `--policy`? (see `kvmod run --help`)'
kvmod run -x
says 2 'kvmod: unknown option `-x` (see `kvmod run --help`)'
kvmod run --json=yes
says 2 'kvmod: `--json` takes no value (see `kvmod run --help`)'
kvmod run hello --policy
says 2 'kvmod: --policy needs a value: NAME (see `kvmod run --help`)'
kvmod run -n many hello
says 2 'kvmod: --tokens=many: expected a whole number, such as 512 or 4k (see `kvmod run --help`)'
kvmod run -n 0 hello
says 2 'kvmod: --tokens=0: expected 1 or more (see `kvmod run --help`)'
kvmod run --temperature nan hello
says 2 'kvmod: --temperature=nan: expected a number (see `kvmod run --help`)'
kvmod run --top-p 2 hello
says 2 'kvmod: --top-p=2: expected a number above 0 and at most 1 (see `kvmod run --help`)'
kvmod run --raw --system be hello
says 2 'kvmod: --system cannot be combined with --raw, which runs the text as it is (see `kvmod run --help`)'
kvmod run -i --json
says 2 'kvmod: -i cannot be combined with --json or --compare (see `kvmod run --help`)'
kvmod info
says 2 'kvmod: expected one MODULE or FILE (see `kvmod info --help`)'
kvmod check it
says 2 'kvmod: unexpected operand `it` (see `kvmod check --help`)'
kvmod list everything
says 2 'kvmod: `everything`: expected modules, policies, engines or devices (see `kvmod list --help`)'

kvmod --version
exits 0
has 'kvmod '
for command in list info check selftest run bench new \
	'bench decision' 'bench engine' 'bench gather' 'bench load' \
	plot 'plot curve' 'plot heads' 'plot latency' 'plot text'; do
	kvmod $command --help
	exits 0
	has "Usage: kvmod $command"
	# An installation has no tests/.
	! grep -q 'tests/' "$tmp/out" || fail 'help names a file that is not installed'
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
