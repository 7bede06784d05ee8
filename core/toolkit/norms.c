/* SPDX-License-Identifier: Apache-2.0 */
/* |Wo v| of a layer's KV heads, at the positions that one of them caches. */
#include "core/toolkit/toolkit.h"

/* Of the i-th position that KV head g caches: the mean over its query heads. */
static float norm_at(const struct kvmod_task *t, uint32_t g, uint32_t i)
{
	const struct kvmod_view *view = &t->segment->wo_norm;
	const char *of_head = (const char *)view->data + g * t->group * view->head_stride;
	float sum = 0;

	for (uint32_t h = 0; h < t->group; h++, of_head += view->head_stride)
		sum += ((const float *)(const void *)of_head)[i];
	return sum / (float)t->group;
}

int32_t kv_mean_wo_norms(const struct kvmod_task *t, uint32_t g, float *out)
{
	const struct kvmod_head *head = kvmod_head_at(t->segment, g);
	uint32_t k = 0;

	if (!t->segment->wo_norm.data)
		return kv_task_fail(t, KVMOD_EINVAL, "its segment has no |Wo v|: a policy's needs "
				    "ask for it with KVMOD_NEED_WO_NORM");
	for (uint32_t i = 0; i < t->n; i++) {
		int64_t position = kvmod_position(t->head, i);

		while (k < head->n && kvmod_position(head, k) < position)
			k++;
		out[i] = k < head->n && kvmod_position(head, k) == position ? norm_at(t, g, k) : 0;
	}
	return KVMOD_OK;
}
