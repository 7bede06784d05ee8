# SPDX-License-Identifier: Apache-2.0

if HAVE_GGML
noinst_LTLIBRARIES += libengine_ggml.la
libengine_ggml_la_SOURCES = \
	plugins/ggml/arch.c \
	plugins/ggml/backend.c \
	plugins/ggml/cache.c \
	plugins/ggml/chat.c \
	plugins/ggml/chat.h \
	plugins/ggml/compute.c \
	plugins/ggml/deep.c \
	plugins/ggml/engine.c \
	plugins/ggml/engine.h \
	plugins/ggml/file.c \
	plugins/ggml/file.h \
	plugins/ggml/gguf.c \
	plugins/ggml/gpu.c \
	plugins/ggml/graph.c \
	plugins/ggml/guess.c \
	plugins/ggml/header.c \
	plugins/ggml/inputs.c \
	plugins/ggml/llama.c \
	plugins/ggml/memory.c \
	plugins/ggml/model.c \
	plugins/ggml/pace.c \
	plugins/ggml/pace.h \
	plugins/ggml/phases.c \
	plugins/ggml/render.c \
	plugins/ggml/replay.c \
	plugins/ggml/request.c \
	plugins/ggml/rows.c \
	plugins/ggml/seq.c \
	plugins/ggml/special.c \
	plugins/ggml/step.c \
	plugins/ggml/template_key.c \
	plugins/ggml/templates.c \
	plugins/ggml/text.c \
	plugins/ggml/turn.c \
	plugins/ggml/vocab.c \
	plugins/ggml/weights.c
libengine_ggml_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
libengine_ggml_la_LIBADD = libkernels.la $(GGML_LIBS) $(LIBM)

module_LTLIBRARIES += ggml.la
ggml_la_SOURCES = plugins/ggml/module.c
ggml_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
ggml_la_LIBADD = libengine_ggml.la
ggml_la_LDFLAGS = $(MODULE_LINK) $(GGML_LDFLAGS)
# Its run path is configure's.
EXTRA_ggml_la_DEPENDENCIES = config.status
endif

# ggml and libllama, where they are not the system's: the engine must not need
# the folder that they were built in.
if BUNDLE_GGML
ggmldir = $(pkglibdir)
ggml_DATA = $(GGML_BUNDLE)
dist_doc_DATA += plugins/ggml/supply/LICENSE.ggml
else
EXTRA_DIST += plugins/ggml/supply/LICENSE.ggml
endif

# The module "cuda" holds the device and the policies that run on it.
CUDA_MODULE = \
	plugins/cuda/cuda.h \
	plugins/cuda/device.c \
	plugins/cuda/module.c \
	policies/cuda/adakv.c \
	policies/cuda/attend.c \
	policies/cuda/attend.h \
	policies/cuda/params.h \
	policies/cuda/policies.h \
	policies/cuda/refreekv.c \
	policies/cuda/snapkv.c \
	policies/cuda/topp.c \
	policies/refreekv_params.c \
	policies/refreekv_params.h

if HAVE_CUDA
module_LTLIBRARIES += cuda.la
cuda_la_SOURCES = $(CUDA_MODULE)
cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CFLAGS)
cuda_la_LIBADD = libkernels_cuda.la $(CUDA_LIBS)
# CUDA leaves handlers behind: once loaded, it stays.
cuda_la_LDFLAGS = $(MODULE_LINK) -Wl,-z,nodelete -Wl,--exclude-libs,ALL
else
EXTRA_DIST += $(CUDA_MODULE)
endif

EXTRA_DIST += \
	plugins/ggml/supply/build-tools.txt \
	plugins/ggml/supply/llama.txt \
	plugins/ggml/supply/model.txt \
	plugins/ggml/supply/no-common.cmake

DISTCLEANFILES += libllama.so* libggml*.so* models/default.gguf
if HAVE_MODEL
model_DATA = $(DEFAULT_MODEL)
MODEL_INSTALL = install-model
MODEL_UNINSTALL = uninstall-model
endif
install-model:
	cd "$(DESTDIR)$(modeldir)" && rm -f default.gguf && \
		$(LN_S) "`basename '$(DEFAULT_MODEL)'`" default.gguf

uninstall-model:
	rm -f "$(DESTDIR)$(modeldir)/default.gguf"
