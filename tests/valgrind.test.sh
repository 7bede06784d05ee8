#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The core's unit tests under valgrind: use of uninitialized memory, invalid accesses, and
# leaks. Engines and kernels are left to the sanitizers: ggml is built for this machine's
# processor, whose instructions valgrind may not know.
tests='config decide loader params plan registry request threads'

if grep -q '^#define KVMOD_SANITIZED' config.h; then
	echo 'skipped: a build with sanitizers does not run under valgrind'
	exit 77
fi
if ! command -v valgrind >/dev/null; then
	echo 'skipped: valgrind is not there'
	exit 77
fi

status=0
for test in $tests; do
	./libtool --mode=execute valgrind -q --error-exitcode=99 --leak-check=full \
		--show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect \
		"tests/test_$test" || {
		echo "FAIL: tests/test_$test under valgrind: status $?"
		status=1
	}
done
exit $status
