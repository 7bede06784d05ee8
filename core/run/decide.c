/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deciding: the core checks the request, hands the policy copies of request and plan
 * with all rows on the policy's device, and checks the answer. Of what the policy can
 * write, the core reads only the values of the answer.
 */
#include "core/run/decide.h"

#include <string.h>
#include <time.h>

#include "core/modules/call.h"
#include "core/run/relay.h"
#include "core/run/request.h"

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- the plan to fill in ---------------------------------------------------------------- */

/* Does the plan fit this request? The request's lengths determine the room of its arrays. */
static int check_plan(const struct kvmod_request *r, const struct kvmod_plan *plan)
{
	if (!KVMOD_HAS(plan, keeps))
		return kv_fail(KVMOD_EINVAL, "the plan has size %u, expected at least %zu", plan->size,
			       sizeof(*plan));
	if (plan->n_keeps != r->n_segments)
		return kv_fail(KVMOD_EINVAL, "the plan has %u segments, but the request has %u",
			       plan->n_keeps, r->n_segments);
	if (!plan->keeps)
		return kv_fail(KVMOD_EINVAL, "the plan's keeps are NULL");
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);
		uint32_t n = kvmod_longest_head(kvmod_segment_at(r, i));

		if (!keep || keep->size < sizeof(*keep) || !keep->spans || !keep->counts || !keep->indices ||
		    keep->index_stride < n)
			return kv_fail(KVMOD_EINVAL, "keep %u of the plan has no room for the %u positions "
				       "of its segment: expected a plan of kvmod_plan_new()", i, n);
	}
	return KVMOD_OK;
}

/* --- asking -------------------------------------------------------------------------- */

/*
 * Work that the policy queued belongs to its answer and to its time. It must end even if
 * the policy failed, because until then it may write to the plan.
 */
static int ask(struct kvmod_policy *p, struct kv_relay *relay)
{
	uint64_t begin = nanoseconds();
	int err;

	kv_relay_begin(relay);
	err = KV_CALL(p->ops, compress, p->instance, &p->handed.request, &p->handed.plan);
	kv_relay_end(relay);
	err = kv_device_wait(p->device, relay->stream, err);
	p->counters.nanoseconds += nanoseconds() - begin;
	return err == KVMOD_OK ? kv_handed_check_plan(&p->handed) : err;
}

static int stage_and_ask(struct kvmod_policy *p, const struct kvmod_request *of_engine,
			 struct kvmod_plan *plan, uint32_t engine_flags)
{
	struct kv_relay relay = {
		.policy = p, .request = of_engine, .plan = plan, .engine_flags = engine_flags,
	};
	struct kvmod_request r;
	int err = kv_hand(&p->handed, &p->needs, of_engine, plan);

	if (err)
		return err;
	r = p->handed.request;
	kv_relay_offer(&r);
	err = kv_stage(p, of_engine, &r);
	if (err == KVMOD_OK)
		err = kv_unrotate(p);
	if (err == KVMOD_OK)
		err = kv_give_workspace(p, &r);
	if (err)	/* queued copies must end before their memory is reused */
		return kv_device_wait(p->device, r.stream, err);
	relay.stream = r.stream;
	p->handed.request = r;
	return ask(p, &relay);
}

/* A caller built for an older kvmod may pass a shorter struct. */
static int take_request(const struct kvmod_request *request, struct kvmod_request *r)
{
	int err = kv_request_check(request);

	if (err)
		return err;
	memset(r, 0, sizeof(*r));
	memcpy(r, request, request->size < sizeof(*r) ? request->size : sizeof(*r));
	r->size = sizeof(*r);
	return KVMOD_OK;
}

int kv_decide(struct kvmod_policy *p, const struct kvmod_request *request,
	      struct kvmod_plan *plan, uint32_t engine_flags)
{
	struct kvmod_request r;
	int err = take_request(request, &r);

	p->counters.requests++;
	if (err == KVMOD_OK)
		err = check_plan(&r, plan);
	if (err == KVMOD_OK)
		err = kv_request_serves(&r, &p->needs);
	if (err == KVMOD_OK)
		err = stage_and_ask(p, &r, plan, engine_flags);
	if (err != KVMOD_OK)
		return kv_refuse(p, plan, err);
	kv_settle(p, &r, plan);
	return KVMOD_OK;
}

/* A host without a session knows by itself which types it can store. */
int kvmod_decide(struct kvmod_policy *p, const struct kvmod_request *request,
		 struct kvmod_plan *plan)
{
	return kv_decide(p, request, plan, KVMOD_ENGINE_STORES);
}
