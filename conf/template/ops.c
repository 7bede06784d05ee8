/* SPDX-License-Identifier: Apache-2.0 */
/*
 * @NAME@: a policy for kvmod, without the toolkit. It keeps the oldest positions,
 * every N-th position after them, and the newest. kvmod-module(7) lists everything
 * that a policy may do.
 */
#include <kvmod/policy.h>

/* An instance, one for each model that the policy is opened for. The core sets the parameters. */
struct policy {
	struct kvmod_instance instance;
	int64_t sinks, every, recent;
};

/* name, type, default, range, help; `kvmod info` shows them, kvmod.conf sets them. */
#define PARAMS(P, owner) \
	P(owner, struct policy, sinks, INT, "4", "0..1024", "oldest positions, always kept") \
	P(owner, struct policy, every, INT, "2", "1..1024", "N: keep every N-th of the others") \
	P(owner, struct policy, recent, INT, "256", "1..1048576", "newest positions, always kept")
KVMOD_PARAMS(policy, @NAME@, PARAMS);

static int is_kept(const struct policy *p, int64_t i, int64_t n)
{
	return i < p->sinks || i >= n - p->recent || (i - p->sinks) % p->every == 0;
}

/*
 * Decides each segment (a layer of a sequence). To read keys, values or queries
 * (segment->q, head->k, head->v), ask for them in a needs() function.
 */
static int32_t compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	for (uint32_t s = 0; s < request->n_segments; s++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, s);
		struct kvmod_keep *keep = kvmod_keep_at(plan, s);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
			uint32_t n = kvmod_head_at(segment, g)->n;
			uint32_t *kept = keep->indices + g * keep->index_stride;

			keep->counts[g] = 0;
			for (uint32_t i = 0; i < n; i++)
				if (is_kept((const struct policy *)self, i, n))
					kept[keep->counts[g]++] = i;
		}
	}
	return KVMOD_OK;
}

static const struct kvmod_policy_ops ops = {
	.size = sizeof(ops),
	.name = "@NAME@",
	.description = "keeps the oldest, every N-th and the newest positions",
	.instance_size = sizeof(struct policy),
	.n_params = sizeof(@NAME@_params) / sizeof(*@NAME@_params),
	.params = @NAME@_params,
	.compress = compress,
};

static int32_t init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &ops);
}

KVMOD_MODULE("@NAME@", "0.1.0", "Apache-2.0", "@AUTHOR@",
	     "keeps the oldest, every N-th and the newest positions", 0, init, NULL);
