# SPDX-License-Identifier: Apache-2.0
# Engines and devices: a module each.

if HAVE_GGML
# What the engines of GGUF models share; modules and tests link it beside an engine.
noinst_LTLIBRARIES += libgguf_models.la libengine_ggml.la libengine_llama.la
libgguf_models_la_SOURCES = \
	plugins/gguf/backend.c \
	plugins/gguf/backend.h \
	plugins/gguf/chat.c \
	plugins/gguf/chat.h \
	plugins/gguf/engine.h \
	plugins/gguf/families.c \
	plugins/gguf/file.c \
	plugins/gguf/file.h \
	plugins/gguf/gpu.c \
	plugins/gguf/gpu.h \
	plugins/gguf/header.c \
	plugins/gguf/hyperparameters.c \
	plugins/gguf/model.c \
	plugins/gguf/model.h \
	plugins/gguf/render_guess.c \
	plugins/gguf/render_known.c \
	plugins/gguf/rope.c \
	plugins/gguf/special_tokens.c \
	plugins/gguf/template_key.c \
	plugins/gguf/templates.c \
	plugins/gguf/text.c \
	plugins/gguf/text.h \
	plugins/gguf/tokenizer_stack.c \
	plugins/gguf/vocab.c \
	plugins/gguf/weights.c
libgguf_models_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
libgguf_models_la_LIBADD = $(GGML_LIBS) $(LIBM)

libengine_ggml_la_SOURCES = \
	plugins/ggml/attention.c \
	plugins/ggml/cache.c \
	plugins/ggml/cache.h \
	plugins/ggml/columns.c \
	plugins/ggml/compute.c \
	plugins/ggml/divergence.c \
	plugins/ggml/divergence.h \
	plugins/ggml/engine.c \
	plugins/ggml/extras.c \
	plugins/ggml/graph.c \
	plugins/ggml/graph.h \
	plugins/ggml/inputs.c \
	plugins/ggml/memory.c \
	plugins/ggml/memory.h \
	plugins/ggml/phases.c \
	plugins/ggml/queries.c \
	plugins/ggml/query_stats.c \
	plugins/ggml/replay.c \
	plugins/ggml/request.c \
	plugins/ggml/reread.c \
	plugins/ggml/rotate.c \
	plugins/ggml/runtime.h \
	plugins/ggml/seq.c \
	plugins/ggml/sequence.h \
	plugins/ggml/small_graph.c \
	plugins/ggml/small_graph.h \
	plugins/ggml/step.c \
	plugins/ggml/store.c \
	plugins/ggml/thread_tuning.c \
	plugins/ggml/thread_tuning.h \
	plugins/ggml/wo_norms.c
libengine_ggml_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
libengine_ggml_la_LIBADD = libkernels.la $(GGML_LIBS) $(LIBM)

libengine_llama_la_SOURCES = plugins/llama/engine.c plugins/llama/engine.h
libengine_llama_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
libengine_llama_la_LIBADD = $(GGML_LIBS)

module_LTLIBRARIES += ggml.la llama.la
ggml_la_SOURCES = plugins/ggml/module.c
ggml_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
ggml_la_LIBADD = libengine_ggml.la libgguf_models.la
ggml_la_LDFLAGS = $(MODULE_LINK) $(GGML_LDFLAGS)
llama_la_SOURCES = plugins/llama/module.c
llama_la_CPPFLAGS = $(AM_CPPFLAGS) $(GGML_CFLAGS)
llama_la_LIBADD = libengine_llama.la libgguf_models.la
llama_la_LDFLAGS = $(MODULE_LINK) $(GGML_LDFLAGS)
# Their run path is configure's.
EXTRA_ggml_la_DEPENDENCIES = config.status
EXTRA_llama_la_DEPENDENCIES = config.status
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
	plugins/cuda/attention.c \
	plugins/cuda/attention.h \
	plugins/cuda/device.c \
	plugins/cuda/device.h \
	plugins/cuda/module.c \
	plugins/cuda/tables.c \
	plugins/cuda/tables.h \
	policies/cuda/adakv.c \
	policies/cuda/params.h \
	policies/cuda/policies.h \
	policies/cuda/ranking.c \
	policies/cuda/ranking.h \
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
