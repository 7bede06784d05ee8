/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The relay between a policy and its engine's services. An engine trusts the plans that
 * it gets, and a policy trusts the answers. A policy may pass a plan that it made itself,
 * so the relay passes on a checked copy of the plan, and a checked answer.
 *
 * One thing cannot be checked: whether a pointer other than NULL points to as many
 * elements as the policy's plan says.
 */
#include "core/run/relay.h"

#include <math.h>

#include "core/modules/call.h"
#include "core/run/decide.h"

/*
 * The relay of this thread. It cannot be reached through the request, because that is
 * the policy's copy and may have been overwritten. A policy calls the services on the
 * thread that runs compress().
 */
static _Thread_local const struct kv_relay *current;

void kv_relay_begin(struct kv_relay *relay)
{
	relay->before = current;
	current = relay;
}

void kv_relay_end(const struct kv_relay *relay)
{
	current = relay->before;
}

static int find_relay(const struct kv_relay **relay, const char *service)
{
	*relay = current;
	if (*relay)
		return KVMOD_OK;
	return kv_fail(KVMOD_EINVAL, "%s: called outside compress(), or on another thread", service);
}

/* --- replay ------------------------------------------------------------------------- */

/* Keep i of a plan that the policy made, or of the one that it was handed. */
static int copy_keep(const struct kv_relay *relay, const struct kvmod_plan *plan, uint32_t i)
{
	const struct kv_handed *handed = &relay->policy->handed;
	const struct kvmod_keep *keep = kvmod_keep_at(plan, i);
	struct kvmod_keep *copy = &handed->trial[i];

	if (!keep)
		return kv_fail(KVMOD_EPLAN, "the keep is NULL");
	if (keep == &handed->keeps[i]) {
		*copy = *kvmod_keep_at(relay->plan, i);
		return kv_handed_take(handed, i, copy);
	}
	if (keep->size < sizeof(*keep))
		return kv_fail(KVMOD_EPLAN, "the keep has size %u, expected %zu", keep->size,
			       sizeof(*keep));
	*copy = *keep;
	copy->size = sizeof(*copy);
	return KVMOD_OK;
}

static int check_keep(const struct kv_relay *relay, const struct kvmod_plan *plan,
		      const struct kvmod_plan *trial, uint32_t i)
{
	struct kvmod_keep *keep = kvmod_keep_at(trial, i);
	int err = copy_keep(relay, plan, i);

	if (err == KVMOD_OK && keep->status != KVMOD_OK)
		kv_leave_whole(keep, keep->status);
	else if (err == KVMOD_OK)
		err = kvmod_plan_check(relay->request, trial, i, relay->policy->ops->flags);
	if (!(relay->engine_flags & KVMOD_ENGINE_STORES))	/* as in the plan that it applies */
		keep->k_store = keep->v_store = KVMOD_STORE_SAME;
	if (err == KVMOD_OK)
		return err;
	return kv_fail_in(err, "replay: layer %u", kvmod_segment_at(relay->request, i)->layer);
}

static int check_plan(const struct kv_relay *relay, const struct kvmod_plan *plan)
{
	uint32_t n = relay->request->n_segments;

	if (!plan || !KVMOD_HAS(plan, keeps) || !plan->keeps)
		return kv_fail(KVMOD_EPLAN, "replay: the plan is NULL or has no keeps");
	if (plan->n_keeps != n)
		return kv_fail(KVMOD_EPLAN, "replay: the plan has %u segments, expected %u", plan->n_keeps, n);
	return KVMOD_OK;
}

/* A copy of the policy's plan that the engine can trust. */
static int make_trial(const struct kv_relay *relay, const struct kvmod_plan *plan,
		      struct kvmod_plan *trial)
{
	struct kv_handed *handed = &relay->policy->handed;
	int err = check_plan(relay, plan);

	*trial = (struct kvmod_plan){
		.size = sizeof(*trial), .n_keeps = handed->n, .keeps = handed->trial_list,
	};
	for (uint32_t i = 0; i < handed->n && err == KVMOD_OK; i++) {
		handed->trial_list[i] = &handed->trial[i];
		err = check_keep(relay, plan, trial, i);
	}
	if (err == KVMOD_OK)
		trial->flags = kv_plan_flags(relay->request, trial, relay->policy->ops->flags);
	return err;
}

static int32_t relay_replay(const struct kvmod_request *handed, const struct kvmod_plan *plan,
			    uint32_t rows, double *loss)
{
	const struct kv_relay *relay;
	struct kvmod_plan trial;
	struct kv_error before;
	double answer = NAN;
	int err = find_relay(&relay, "replay");

	(void)handed;
	kv_error_save(&before);
	if (err == KVMOD_OK && !relay->request->replay)	/* the call is one of another request */
		err = kv_fail(KVMOD_ENOTSUP, "replay: this engine has none");
	if (err == KVMOD_OK && !loss)
		err = kv_fail(KVMOD_EINVAL, "replay: loss is NULL, expected room for the answer");
	if (err == KVMOD_OK)	/* work that the policy queued may still write to the plan */
		err = kv_device_wait(relay->policy->device, relay->stream, err);
	if (err == KVMOD_OK)
		err = make_trial(relay, plan, &trial);
	if (err == KVMOD_OK)
		err = KV_CALL(relay->request, replay, relay->request, &trial, rows, &answer);
	if (err == KVMOD_OK && !isfinite(answer))
		err = kv_fail(KVMOD_ENUMERIC, "replay: the engine's answer is %g", answer);
	if (err != KVMOD_OK)
		return err;
	kv_error_restore(&before);
	*loss = answer;
	return KVMOD_OK;
}

/* --- reread ------------------------------------------------------------------------- */

/* The tokens seen by all of the request's sequences: each must have the positions asked for. */
static uint64_t fewest_tokens(const struct kvmod_request *r)
{
	uint64_t fewest = UINT64_MAX;

	for (uint32_t i = 0; i < r->n_segments; i++) {
		uint64_t seen = kvmod_tokens_seen(kvmod_segment_at(r, i));

		fewest = seen < fewest ? seen : fewest;
	}
	return fewest;
}

/* Attention weights must be finite and not negative. */
static int check_weights(const struct kvmod_request *r, const char *service, uint64_t n, const float *out)
{
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		for (uint64_t k = 0; k < s->n_kv_heads * n; k++)
			if (!(out[k] >= 0) || isinf(out[k]))
				return kv_fail(KVMOD_ENUMERIC, "%s: layer %u: the engine's answer for "
					       "KV head %llu is %g, expected 0 or more", service, s->layer,
					       (unsigned long long)(k / n), (double)out[k]);
		out += s->n_kv_heads * n;
	}
	return KVMOD_OK;
}

static int32_t relay_reread(const struct kvmod_request *handed, const struct kvmod_reread *asked,
			    float *out)
{
	const struct kv_relay *relay;
	int err = find_relay(&relay, "reread");
	struct kvmod_reread what;
	struct kv_error before;
	uint64_t seen;

	(void)handed;
	if (err != KVMOD_OK)
		return err;
	if (!relay->request->reread)
		return kv_fail(KVMOD_ENOTSUP, "reread: this engine has none");
	kv_error_save(&before);
	seen = fewest_tokens(relay->request);
	if (!asked || !KVMOD_HAS(asked, end))
		return kv_fail(KVMOD_EINVAL, "reread: what to read is NULL or too short");
	what = *asked;
	what.size = sizeof(what);
	if (what.begin >= what.end || what.end > seen)
		return kv_fail(KVMOD_EINVAL, "reread: positions %llu..%llu, expected a part of 0..%llu",
			       (unsigned long long)what.begin, (unsigned long long)what.end,
			       (unsigned long long)seen);
	if (what.sinks > seen)
		return kv_fail(KVMOD_EINVAL, "reread: %u sinks of %llu positions", what.sinks,
			       (unsigned long long)seen);
	if (!out)
		return kv_fail(KVMOD_EINVAL, "reread: out is NULL, expected room for the answer");
	err = KV_CALL(relay->request, reread, relay->request, &what, out);
	if (err == KVMOD_OK)
		err = check_weights(relay->request, "reread", what.end - what.begin, out);
	if (err == KVMOD_OK)
		kv_error_restore(&before);
	return err;
}

/* --- ask ---------------------------------------------------------------------------- */

static int32_t relay_ask(const struct kvmod_request *handed, const struct kvmod_ask *asked, float *out)
{
	const struct kv_relay *relay;
	int err = find_relay(&relay, "ask");
	struct kvmod_ask what;
	struct kv_error before;

	(void)handed;
	if (err != KVMOD_OK)
		return err;
	if (!KVMOD_HAS(relay->request, ask) || !relay->request->ask)
		return kv_fail(KVMOD_ENOTSUP, "ask: this engine has none");
	kv_error_save(&before);
	if (!asked || !KVMOD_HAS(asked, question) || !asked->question)
		return kv_fail(KVMOD_EINVAL, "ask: the question is NULL");
	if (!out)
		return kv_fail(KVMOD_EINVAL, "ask: out is NULL, expected room for the answer");
	what = *asked;
	what.size = sizeof(what);
	err = KV_CALL(relay->request, ask, relay->request, &what, out);
	if (err == KVMOD_OK)
		err = check_weights(relay->request, "ask", fewest_tokens(relay->request), out);
	if (err == KVMOD_OK)
		kv_error_restore(&before);
	return err;
}

void kv_relay_offer(struct kvmod_request *handed)
{
	if (handed->replay)
		handed->replay = relay_replay;
	if (handed->reread)
		handed->reread = relay_reread;
	if (handed->ask)
		handed->ask = relay_ask;
	handed->replay_ctx = NULL;
}
