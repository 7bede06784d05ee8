/* SPDX-License-Identifier: Apache-2.0 */
/* An open policy, shared by the files that open, ask and close it. */
#ifndef KV_CORE_RUN_POLICY_H
#define KV_CORE_RUN_POLICY_H

#include "core/modules/device.h"
#include "core/run/handed.h"

/* Memory that every decision needs: kept from one decision to the next, and grown. */
struct kv_buffer {
	void *memory;
	uint64_t size;
	bool on_host;			/* accessible to the device, if it offers such memory */
};

/* Copies of rows that lie on another device than the policy's. */
struct kv_staging {
	struct kvmod_device *from;	/* that other device, of the last copies; NULL: none yet */
	struct kv_buffer copies;	/* on the policy's device: all segments */
	struct kv_buffer packed;	/* on `from`: rows of one segment, without gaps */
	struct kv_buffer on_the_way;	/* on the host: from one accelerator to another */
	struct kv_buffer plain;		/* on the host: floats of rotated rows */
	bool said;
};

struct kvmod_policy {
	struct kvmod_ctx *ctx;
	struct kv_provider *provider;
	const struct kvmod_policy_ops *ops;
	void *instance;
	struct kvmod_device *device;	/* where it runs */
	struct kvmod_model model;	/* the policy's own copy */
	struct kvmod_needs needs;
	struct kvmod_counters counters;
	struct kv_buffer scratch, device_scratch;
	struct kv_staging staging;
	struct kv_handed handed;
};

/* Makes room for at least `bytes` bytes; the content is lost. */
int kv_buffer_reserve(struct kvmod_device *device, struct kv_buffer *buffer, uint64_t bytes);
void kv_buffer_free(struct kvmod_device *device, struct kv_buffer *buffer);
/* Prefixes the message of a failed device call with the device's name; returns err. */
int kv_device_failed(const struct kvmod_device *device, int err);
/*
 * Waits for all work that is queued on the stream. err is the result so far: a failure, with
 * its message, takes precedence over a failure to wait.
 */
int kv_device_wait(struct kvmod_device *device, void *stream, int err);

/*
 * Copies the rows of all segments to the policy's device. The segments handed to the policy
 * then point to the copies, and *r, the request handed with them, names that device and a
 * stream. Work that is queued on r->stream finds the rows in place.
 */
int kv_stage(struct kvmod_policy *p, const struct kvmod_request *of_engine, struct kvmod_request *r);
void kv_staging_free(struct kvmod_policy *p);

/* Does the policy have a parameter `budget`, or `heavy` and `recent`, and are all of them counts? */
bool kv_policy_counts_budget(const struct kvmod_policy *policy);

#endif
