#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A new device module needs no edit of the core: no source of it names a device but the
# host's own. Public headers may, as examples.
set -eu
srcdir=${srcdir:-.}

found=$(grep -rniE 'cuda|\bnvidia\b|\brocm\b' "$srcdir/core" --include='*.[ch]' |
	grep -v "^$srcdir/core/include/" || true)
if [ -n "$found" ]; then
	echo "FAIL: the core names a device:"
	echo "$found"
	exit 1
fi
# The search itself works.
grep -rqi cuda "$srcdir/core/include" --include='*.h' || { echo "FAIL: nothing was searched"; exit 1; }
