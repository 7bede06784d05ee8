# SPDX-License-Identifier: Apache-2.0
# For the tests of the command, which source this from the build folder: runs the
# built kvmod and compares its output, word for word.
: "${srcdir:=.}"
build=$PWD
tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvmod-cli.XXXXXX") || exit 99
# A path that the loader trusts, without symbolic links.
tmp=$(cd "$tmp" && pwd -P)
trap 'rm -rf "$tmp"' EXIT

# Not the user's configuration, but one that cuts short prompts too; no colours, English.
KVMOD_CONF=$tmp/kvmod.conf
LC_ALL=C.UTF-8
export KVMOD_CONF LC_ALL
unset NO_COLOR XDG_CONFIG_HOME
cat >"$KVMOD_CONF" <<END
[kvmod]
module_path = :$build/tests/cli/.libs
engine = fake
leave_below = 0
END

# try COMMAND... - runs it; $status, $tmp/out and $tmp/err have the result.
try() {
	tried=$*
	"$@" >"$tmp/out" 2>"$tmp/err"
	status=$?
}

kvmod() {
	try "$build/kvmod" "$@"
}

# A file records the failure, because many checks run in the subshell of a pipe.
fail() {
	: >"$tmp/failed"
	echo "FAIL: $tried: $*"
}

exits() {
	[ "$status" -eq "$1" ] || {
		fail "exit status $status, expected $1"
		sed 's/^/  stderr: /' "$tmp/err"
	}
}

# Paths of this machine, and numbers that differ from run to run, get names.
tidy() {
	sed -e "s|$tmp|TMP|g" -e "s|$build|BUILD|g" \
		-e 's/[0-9.]* tok\/s/N tok\/s/g' -e 's/decision [0-9.]* ms/decision N ms/' \
		-e 's/resident memory .*/resident memory .../' "$1"
}

same() {
	tidy "$tmp/$1" >"$tmp/tidy"
	cat >"$tmp/expected"
	diff -u "$tmp/expected" "$tmp/tidy" >"$tmp/diff" || {
		fail "another $1 than expected:"
		cat "$tmp/diff"
	}
}

# out and err compare the whole output with stdin.
out() { same out; }
err() { same err; }
# says is for one line on stderr and nothing on stdout.
says() {
	exits "$1"
	echo "$2" | same err
	: | same out
}

# has WORDS - does a line of stdout have them?
has() {
	grep -qF -e "$1" "$tmp/out" || {
		fail "no '$1' in"
		cat "$tmp/out"
	}
}

# json PATH:TYPE... - is stdout one JSON object with these?
json() {
	cp "$tmp/out" "$tmp/json"
	try "$build/tests/cli/json_check" "$tmp/json" "$@"
	exits 0
}

finish() {
	[ ! -e "$tmp/failed" ]
	exit
}
