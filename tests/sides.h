/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One model in two engines: on the CPU, and with layers on a GPU. Built twice: with
 * a CUDA GPU, and with FAKE_GPU, where a second CPU backend of ggml and kvmod's
 * device "cpu" play one.
 */
#ifndef KV_TESTS_SIDES_H
#define KV_TESTS_SIDES_H

#include "tests/engine_host.h"
#include "tests/tiny_model.h"

#define N 96			/* tokens, at most */
#define N_MODELS 5

#ifdef FAKE_GPU
#define DEVICE "cpu"
#define NEAR 1e-5
#else
#define DEVICE "cuda"
/* CUDA attends to F16 copies of an F32 cache, and multiplies large matrices in TF32. */
#define NEAR 3e-2
#endif

extern const unsigned sides_models[N_MODELS];	/* of the tiny ones */
/* Tiny models with caches of each type: on the CPU, and with some or all layers on the GPU. */
#define SIDES_SETUPS 6
extern const struct sides_setup {
	unsigned model;
	enum ggml_type type;
	int64_t batch, layers;
} sides_setups[SIDES_SETUPS];

/* The GPU's memory, once there is an engine on it; its gathers can be made to fail, after some
   good ones. */
extern struct kvmod_device_ops sides_device_ops;
extern void *sides_device_self;
extern bool sides_gathers_fail;
extern unsigned sides_good_gathers;

#ifdef FAKE_GPU
/* The made-up GPU lacks KVMOD_DEVICE_ATTENTION; its calls answer with this code. */
extern bool sides_no_attention;
extern int32_t sides_attention_fails;
#endif

struct side {
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	float logits[N * TINY_VOCAB];
};

struct setup {
	char *model;
	struct side cpu, gpu;
	int32_t tokens[N];
};

/* For the parameters of an engine on the GPU. */
const struct gg_gpu *sides_find_gpu(void);
void sides_set_up(struct setup *s, unsigned model, int64_t layers);
/* With a variant of the model, and caches of another type than F32. */
void sides_set_up_as(struct setup *s, unsigned model, int64_t layers, enum tiny_fault variant,
		     enum ggml_type type);
void sides_tear_down(struct setup *s);

/* Runs tokens[from..to), in one call or one by one: on both, on one of them. */
void sides_run(struct setup *s, uint32_t from, uint32_t to, bool single);
void sides_run_one(struct setup *s, struct side *side, uint32_t from, uint32_t to, bool single);
/* Do they agree on these tokens' logits? */
void sides_check(const struct setup *s, uint32_t from, uint32_t to);
void sides_check_near(const struct setup *s, uint32_t from, uint32_t to, double near);
/* Root of the mean square of a - b, as a share of b's. */
double sides_distance(const float *a, const float *b, size_t n);

/* A plan of either kind; the same cut on both. */
struct kvmod_plan *sides_plan(struct kvmod_seq *seq, uint32_t kind, struct kvmod_request *request);
void sides_cut(struct setup *s, uint32_t kind);

#ifndef FAKE_GPU
/* Says why, if there is no GPU. */
bool sides_skip(void);
#endif

#endif
