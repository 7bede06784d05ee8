/* SPDX-License-Identifier: Apache-2.0 */
/* The head table of the policy duo. */
#ifndef KV_POLICIES_DUO_TABLE_H
#define KV_POLICIES_DUO_TABLE_H

#include <float.h>

#include <kvmod/policy.h>

/* The score of a head that was not measured; no other score is as large. */
#define DUO_NOT_MEASURED	FLT_MAX

/*
 * Reads the scores of the model's KV heads, [n_layers][n_kv_heads], from the table at `path`.
 * KVMOD_OK, or an error with a message.
 */
int32_t duo_table_read(const struct kvmod_host *host, const char *path,
		       const struct kvmod_model *model, float *scores);

#endif
