#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Lists the tests that were not built because a library is missing: a run without them
# does not count as a pass.
skipped=
without() {
	echo "skipped: built without $1, so $2 are not built"
	skipped=yes
}

[ "$HAVE_CHECK" = yes ] || without 'check' 'the unit tests'
[ "$HAVE_CUDA" = yes ] || without "NVIDIA's nvcc" 'the cuda module and its tests'
[ "$HAVE_GGML" = yes ] || without 'ggml and libllama' 'the ggml engine and its tests'
[ -z "$skipped" ] || exit 77
