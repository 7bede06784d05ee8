/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotation: an engine may store rows of K, V and Q multiplied by Hadamard matrices. The
 * core converts those that a policy on the CPU asked for to plain floats, in its own
 * memory. A policy on an accelerator is refused.
 */
#include "core/run/decide.h"

#include "core/base/threads.h"
#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/logits.h"

#define ALIGN 64u			/* for the floats of a view */

/* One view, [n_rows][n_heads][dim], and the destination of its floats. */
struct plain {
	struct kvmod_view from;
	float *to;
	uint32_t n_rows, n_heads, dim;
};

struct rotation {
	/* NULL in the first pass, which only counts the views. */
	struct plain *plains;
	uint32_t n;
	char *floats;
	uint64_t used;			/* bytes of floats */
	const char *what;		/* the first rotated view, and its layer */
	uint32_t layer;
};

/* Afterwards the view points to the floats. */
static void add_view(struct rotation *r, struct kvmod_view *view, uint32_t n_rows, uint32_t n_heads,
		     uint32_t dim)
{
	uint64_t row = dim * sizeof(float), bytes = (uint64_t)n_rows * n_heads * row;

	if (r->plains) {
		float *to = (float *)(void *)(r->floats + r->used);

		r->plains[r->n] = (struct plain){ *view, to, n_rows, n_heads, dim };
		*view = (struct kvmod_view){
			.type = KVMOD_F32, .data = to, .stride = (int64_t)(n_heads * row),
			.head_stride = (int64_t)row,
		};
	}
	r->n++;
	r->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void look_at(struct rotation *r, struct kvmod_view *view, const char *what,
		    const struct kvmod_segment *s, uint32_t n_rows, uint32_t n_heads)
{
	if (!view->data || view->rotation == 0)
		return;
	if (!r->what) {
		r->what = what;
		r->layer = s->layer;
	}
	add_view(r, view, n_rows, n_heads, s->head_dim);
}

static void go_over(struct rotation *r, struct kvmod_policy *p)
{
	struct kvmod_head *head = p->handed.heads;

	r->n = 0;
	r->used = 0;
	for (uint32_t i = 0; i < p->handed.n; i++) {
		struct kvmod_segment *s = &p->handed.segments[i];

		for (uint32_t g = 0; g < s->n_kv_heads; g++, head++) {
			look_at(r, &head->k, "K", s, head->n, 1);
			look_at(r, &head->v, "V", s, head->n, 1);
		}
		look_at(r, &s->q, "Q", s, s->n_rows, s->n_q_heads);
	}
}

static void make_plain(void *plains, uint32_t i)
{
	const struct plain *p = (const struct plain *)plains + i;
	const char *row = p->from.data;
	float *to = p->to;

	for (uint32_t j = 0; j < p->n_rows; j++, row += p->from.stride)
		for (uint32_t h = 0; h < p->n_heads; h++, to += p->dim) {
			kv_cpu_to_f32(p->from.type, row + h * p->from.head_stride, p->dim, to);
			kv_cpu_hadamard(to, p->dim, p->from.rotation);
		}
}

int kv_unrotate(struct kvmod_policy *p)
{
	struct rotation r = { 0 };
	struct kv_buffer *buffer = &p->staging.plain;
	uint64_t floats;
	int err;

	go_over(&r, p);
	if (r.n == 0)
		return KVMOD_OK;
	if (!kv_device_is_host(p->device))
		return kv_fail(KVMOD_ENOTSUP, "layer %u: %s is stored rotated, which a policy on %s cannot "
			       "read: run the policy on the CPU", r.layer, r.what,
			       kvmod_policy_device(p));
	floats = r.used;
	err = kv_buffer_reserve(p->device, buffer, floats + r.n * sizeof(*r.plains));
	if (err)
		return err;
	r.floats = buffer->memory;
	r.plains = (struct plain *)(void *)(r.floats + floats);
	go_over(&r, p);
	kv_parallel(p->ctx, r.n, make_plain, r.plains);
	return KVMOD_OK;
}
