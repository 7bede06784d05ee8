/* SPDX-License-Identifier: Apache-2.0 */
/* A policy that is open: what policy.c, decide.c, staging.c and buffer.c share. */
#ifndef KVMOD_RUN_POLICY_H
#define KVMOD_RUN_POLICY_H

#include "core/modules/device.h"

/* Memory that is asked for again and again: kept, and grown. */
struct kv_buffer {
	void *memory;
	uint64_t size;
	bool on_host;			/* within the device's reach if it can give such memory */
};

/* Copies of what lies on another device than the policy runs on. */
struct kv_staging {
	struct kvmod_device *from;	/* that other device; NULL: nothing was ever copied */
	struct kv_buffer copies;	/* on the policy's device: all segments */
	struct kv_buffer packed;	/* on `from`: rows of one segment, without gaps */
	void *arrays;			/* on the host: segments and heads, described anew */
	bool said;
};

struct kvmod_policy {
	struct kvmod_ctx *ctx;
	struct kv_provider *provider;
	const struct kvmod_policy_ops *ops;
	void *instance;
	struct kvmod_device *device;	/* where it runs */
	struct kvmod_needs needs;
	struct kvmod_counters counters;
	struct kv_buffer scratch, device_scratch;
	struct kv_staging staging;
};

/* Makes it hold at least so many bytes; what was in it is lost. */
int kv_buffer_reserve(struct kvmod_device *device, struct kv_buffer *buffer, uint64_t bytes);
void kv_buffer_free(struct kvmod_device *device, struct kv_buffer *buffer);
/* Says that a call of the device failed; returns err. */
int kv_device_failed(const struct kvmod_device *device, int err);
/* For all that is queued on the stream. */
int kv_device_wait(struct kvmod_device *device, void *stream);

/*
 * Brings all segments of the request to the policy's device: *r is then as the
 * policy is to see it. The copies are as good as there for work on r->stream.
 */
int kv_stage(struct kvmod_policy *p, struct kvmod_request *r);
void kv_staging_free(struct kvmod_policy *p);

/* Has it a parameter `budget` that is a count now? */
bool kv_policy_counts_budget(const struct kvmod_policy *policy);

#endif
