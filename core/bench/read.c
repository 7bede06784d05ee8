/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain pass over K, as a policy: what a decision of one row of queries is
 * compared with.
 */
#define KVMOD_MODULE_SYMBOL bench_read_module
#include "core/bench/cache.h"

#include "kernels/cpu/limits.h"

struct plain_read {
	struct kvmod_instance instance;
	atomic_ullong sum;		/* used, so that the compiler drops no pass */
};

KVMOD_NO_PARAMS(policy, plain_read);

static uint64_t sum_piece(const struct kvmod_segment *s, uint32_t g, uint32_t begin, uint32_t end)
{
	const struct kvmod_view *k = &kvmod_head_at(s, g)->k;
	size_t key = kvmod_row_bytes(k->type, s->head_dim);
	const char *data = (const char *)k->data + begin * k->stride;
	uint64_t sum = 0;

	if (k->stride == (int64_t)key)
		return kv_cpu_sum_bytes(data, (end - begin) * key);
	for (; begin < end; begin++, data += k->stride)
		sum += kv_cpu_sum_bytes(data, key);
	return sum;
}

static int32_t plain_read_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	return 0;
}

static int32_t plain_read_compress(void *self_, const struct kvmod_request *request,
				   struct kvmod_plan *plan)
{
	struct plain_read *self = self_;

	(void)plan;
	bench_each_piece(self->instance.host, request, sum_piece, &self->sum);
	return 0;
}

static const struct kvmod_policy_ops plain_read_ops = {
	.size = sizeof(plain_read_ops),
	.name = "plain-read",
	.description = "adds up all bytes of K and keeps everything",
	.instance_size = sizeof(struct plain_read),
	.needs = plain_read_needs,
	.compress = plain_read_compress,
};

static int32_t plain_read_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &plain_read_ops);
}

KVMOD_MODULE("plain-read", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "one plain pass over the keys", 0, plain_read_init, NULL);
