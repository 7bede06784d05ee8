# SPDX-License-Identifier: Apache-2.0
# The package forces llama.cpp's helper library on through the cache; a plain
# variable, set when llama.cpp's own project begins, wins over that. Nothing
# here needs the library, and it takes as long to build as ggml.
set(LLAMA_BUILD_COMMON OFF)
