# SPDX-License-Identifier: Apache-2.0

EXTRA_DIST += \
	plugins/ggml/supply/build-tools.txt \
	plugins/ggml/supply/llama.txt \
	plugins/ggml/supply/model.txt \
	plugins/ggml/supply/no-common.cmake
