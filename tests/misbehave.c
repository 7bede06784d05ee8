/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A policy that makes the mistake that its parameter `how` names, on caches of 300
 * positions; of others it keeps all. Built with DEAD, it dies when it is loaded.
 */
#include <kvmod/policy.h>

#include <stdlib.h>
#include <unistd.h>

enum how {
	WELL, CRASH, HANG, EXIT, UNSORTED, EMPTY, OLDEST, UNWRITTEN, WRITE, FICKLE, SILENT,
	CODE, MUTE, LEAVE,
};

struct misbehave {
	struct kvmod_instance instance;
	int32_t how;
	uint32_t n_calls;
};

#define PARAMS(P, owner) \
	P(owner, struct misbehave, how, CHOICE, "well", \
	  "well|crash|hang|exit|unsorted|empty|oldest|unwritten|write|fickle|silent|code|mute|leave", \
	  "what it does wrong")
KVMOD_PARAMS(policy, misbehave, PARAMS);

static int32_t misbehave_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	return 0;
}

/* The same indices for each head. */
static void keep(const struct kvmod_segment *segment, struct kvmod_keep *keep, uint32_t n,
		 uint32_t first, uint32_t second)
{
	keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		keep->counts[g] = n;
		keep->indices[g * keep->index_stride] = first;
		keep->indices[g * keep->index_stride + 1] = second;
	}
}

static int32_t misbehave(struct misbehave *self, const struct kvmod_segment *segment,
			 struct kvmod_keep *kept, uint32_t n)
{
	switch (self->how) {
	case LEAVE:
		while (fork() == 0)	/* one that never ends, and holds all that is open */
			pause();
		abort();
	case CRASH:
		abort();
	case MUTE:
		for (int fd = 0; fd < 1024; fd++)
			close(fd);
		/* fall through */
	case HANG:
		for (;;)
			pause();
	case EXIT:
		_exit(42);
	case UNSORTED:
		keep(segment, kept, 2, n - 1, 0);
		return 0;
	case EMPTY:
		keep(segment, kept, 0, 0, 0);
		return 0;
	case OLDEST:
		keep(segment, kept, 2, 0, 1);
		return 0;
	case UNWRITTEN:
		kept->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
			kept->counts[g] = 2;
			kept->indices[g * kept->index_stride + 1] = n - 1;
		}
		return 0;
	case WRITE:
		*(char *)(uintptr_t)kvmod_head_at(segment, 0)->k.data += 1;
		return 0;
	case FICKLE:
		keep(segment, kept, 2, self->n_calls++ % 5, n - 1);
		return 0;
	case SILENT:
		return KVMOD_ENOTSUP;
	case CODE:
		return 17;
	default:
		return 0;
	}
}

static int32_t misbehave_compress(void *self, const struct kvmod_request *request,
				  struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);
		uint32_t n = kvmod_head_at(segment, 0)->n;
		int32_t err = n == 300 ? misbehave(self, segment, kvmod_keep_at(plan, i), n) : 0;

		if (err)
			return err;
	}
	return 0;
}

static const struct kvmod_policy_ops misbehave_ops = {
	.size = sizeof(misbehave_ops),
	.name = "misbehave",
	.description = "makes the mistake that its parameter names",
	.instance_size = sizeof(struct misbehave),
	.params = misbehave_params,
	.n_params = sizeof(misbehave_params) / sizeof(*misbehave_params),
	.needs = misbehave_needs,
	.compress = misbehave_compress,
};

static int32_t misbehave_init(const struct kvmod_host *host)
{
#ifdef DEAD
	abort();
#endif
	return host->register_policy(host->ctx, &misbehave_ops);
}

KVMOD_MODULE("misbehave", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "a policy for tests that makes the mistake that its parameter names", 0, misbehave_init, NULL);
