/* SPDX-License-Identifier: Apache-2.0 */
/* Places copies of a made-up cache in a device's memory. */
#include "core/bench/device.h"

#include <stdlib.h>

#define APART		((uint64_t)256 << 20)	/* bytes read between two uses of a copy: far above any L2 */
#define MADE		((uint64_t)1 << 30)	/* bytes of K that the host makes at most */
#define READ_UNIT	16u			/* the device reads multiples of so many bytes */

static uint64_t k_room(const struct bench_shape *s, uint32_t n)
{
	return (bench_k_bytes(s, n) + READ_UNIT - 1) / READ_UNIT * READ_UNIT;
}

static uint64_t copy_bytes(const struct bench_shape *s, uint32_t n, const struct kvmod_needs *needs)
{
	return k_room(s, n) * (needs->what & KVMOD_NEED_V ? 2 : 1);
}

static uint64_t shared_bytes(const struct bench_shape *s, uint32_t n,
			     const struct kvmod_needs *needs)
{
	return bench_q_bytes(s, n, needs) + bench_extra_bytes(s, n, needs);
}

/* The shape that the host makes: segments of one sequence, MADE bytes at most. */
static struct bench_shape made_shape(const struct bench_shape *s, uint32_t n)
{
	struct bench_shape made = *s;
	uint64_t fit;

	made.n_layers = made.n_sequences = 1;
	fit = MADE / bench_k_bytes(&made, n);
	made.n_layers = fit < 1 ? 1 : fit < bench_segments(s) ? (uint32_t)fit : bench_segments(s);
	return made;
}

uint64_t bench_place_bytes(const struct bench_shape *s, uint32_t n,
			   const struct kvmod_needs *needs, uint64_t *host)
{
	struct bench_shape made = made_shape(s, n);

	*host = bench_cache_bytes(&made, n, needs);
	return copy_bytes(s, n, needs) + shared_bytes(s, n, needs);
}

/* --- filling ------------------------------------------------------------------------- */

/* Copies from the host once, then repeats those bytes on the device. */
static int fill(struct bench_device *d, void *to, uint64_t bytes, const void *made,
		uint64_t made_bytes)
{
	if (BENCH_CALL(d, ops, from_host, NULL, to, made, made_bytes))
		return CLI_FAILED;
	for (uint64_t done = made_bytes, n; done < bytes; done += n) {
		n = done < bytes - done ? done : bytes - done;
		if (bench_device_copy(d, (char *)to + done, to, n))
			return CLI_FAILED;
	}
	return CLI_OK;
}

/* What all copies share. */
static int place_shared(struct bench_place *p, const struct bench_cache *made, uint64_t q_bytes,
			uint64_t extra_bytes)
{
	struct bench_device *d = p->device;

	if (q_bytes && (bench_device_alloc(d, q_bytes, &p->q) ||
			fill(d, p->q, q_bytes, made->q, q_bytes)))
		return CLI_FAILED;
	if (extra_bytes && (bench_device_alloc(d, extra_bytes, &p->extra) ||
			    fill(d, p->extra, extra_bytes, made->extra, extra_bytes)))
		return CLI_FAILED;
	return CLI_OK;
}

static int place_copy(struct bench_place *p, const struct bench_shape *s, uint32_t n,
		      const struct kvmod_needs *needs, const struct bench_cache *made)
{
	struct bench_cache *c = &p->copies[p->n_copies++];
	struct bench_device *d = p->device;

	*c = (struct bench_cache){
		.k_bytes = bench_k_bytes(s, n), .q = p->q, .extra = p->extra,
	};
	if (bench_device_alloc(d, k_room(s, n), &c->k) ||
	    (made->v && bench_device_alloc(d, k_room(s, n), &c->v)) ||
	    fill(d, c->k, c->k_bytes, made->k, made->k_bytes) ||
	    (made->v && fill(d, c->v, c->k_bytes, made->v, made->k_bytes)))
		return CLI_FAILED;
	if (!bench_cache_describe(c, s, n, needs))
		return cli_error("out of memory");
	c->d.request.device = d->ops->name;
	return CLI_OK;
}

/* The number of copies that keeps two uses of one copy APART, or as many as fit. */
static uint32_t wanted_copies(const struct bench_device *d, uint64_t bytes, uint64_t k_bytes,
			      uint64_t spare)
{
	uint64_t wanted = 2 + APART / k_bytes, room = bench_device_free_bytes(d);

	room = room > spare ? (room - spare) / bytes : 0;
	wanted = wanted < BENCH_MAX_COPIES ? wanted : BENCH_MAX_COPIES;
	wanted = wanted < room ? wanted : room;
	return wanted ? (uint32_t)wanted : 1;
}

int bench_place_make(struct bench_place *p, struct bench_device *d, const struct bench_shape *s,
		     uint32_t n, const struct kvmod_needs *needs, uint64_t spare)
{
	struct bench_shape made_s = made_shape(s, n);
	struct bench_cache made;
	uint32_t n_copies;
	int err;

	*p = (struct bench_place){ .device = d };
	if (!bench_cache_make(&made, &made_s, n, needs))
		return cli_error("out of memory");
	err = place_shared(p, &made, bench_q_bytes(s, n, needs), bench_extra_bytes(s, n, needs));
	n_copies = wanted_copies(d, copy_bytes(s, n, needs), bench_k_bytes(s, n), spare);
	while (!err && p->n_copies < n_copies)
		err = place_copy(p, s, n, needs, &made);
	if (!err)
		err = BENCH_CALL(d, ops, synchronize, NULL);
	bench_cache_free(&made);
	return err;
}

void bench_place_free(struct bench_place *p)
{
	struct bench_device *d = p->device;

	for (uint32_t i = 0; i < p->n_copies; i++) {
		if (p->copies[i].k)
			d->ops->free(d->self, p->copies[i].k);
		if (p->copies[i].v)
			d->ops->free(d->self, p->copies[i].v);
		kv_undescribe(&p->copies[i].d);
	}
	if (p->q)
		d->ops->free(d->self, p->q);
	if (p->extra)
		d->ops->free(d->self, p->extra);
	*p = (struct bench_place){ 0 };
}

struct bench_cache *bench_place_next(struct bench_place *p)
{
	return &p->copies[p->next++ % p->n_copies];
}
