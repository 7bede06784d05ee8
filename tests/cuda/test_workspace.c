/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that policies for a GPU ask for, how they read a request, and what the device
 * refuses. This test needs no GPU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugins/cuda/device.h"
#include "policies/cuda/params.h"
#include "policies/cuda/policies.h"
#include "policies/refreekv_params.h"
#include "tests/cuda/checks.h"
#include "tests/cuda/host.h"

#define DIM 64u
#define WINDOW 8u
#define MOST_HEADS 8u
#define MOST_SEGMENTS 3u

/* --- a request without keys and queries ----------------------------------------- */

static float numbers[MOST_HEADS * DIM];
static struct kvmod_head heads[MOST_SEGMENTS][MOST_HEADS];
static const struct kvmod_head *head_list[MOST_SEGMENTS][MOST_HEADS];
static struct kvmod_segment segments[MOST_SEGMENTS];
static const struct kvmod_segment *segment_list[MOST_SEGMENTS];

static struct kvmod_view view(void)
{
	return (struct kvmod_view){
		.type = KVMOD_F32, .data = numbers,
		.stride = DIM * sizeof(float), .head_stride = DIM * sizeof(float),
	};
}

/* longest: the length of the first KV head; the others have only the window. */
static void fill(uint32_t i, uint32_t n_heads, uint32_t longest, uint32_t others)
{
	for (uint32_t g = 0; g < n_heads; g++)
		heads[i][g] = (struct kvmod_head){
			.size = sizeof(heads[i][g]), .n = g ? others : longest, .k = view(),
		};
	segments[i] = (struct kvmod_segment){
		.size = sizeof(segments[i]), .layer = i, .logical = longest, .n_q_heads = n_heads,
		.n_kv_heads = n_heads, .head_dim = DIM, .scale = 1,
		.heads = head_list[i], .q = view(), .n_rows = WINDOW,
	};
	kvmod_list_heads(head_list[i], heads[i], n_heads);
	segment_list[i] = &segments[i];
}

static struct kvmod_request request_of(const struct kvmod_segment *const *list, uint32_t n)
{
	return (struct kvmod_request){
		.size = sizeof(struct kvmod_request), .n_layers = MOST_SEGMENTS, .n_segments = n,
		.segments = list,
	};
}

static struct kvmod_workspace asked(const struct kvmod_policy_ops *ops, void *self,
				    const struct kvmod_request *request)
{
	struct kvmod_workspace need = { .size = sizeof(need) };
	int32_t err = ops->workspace(self, request, &need);

	CHECK(err == 0, "%s: workspace() gives %d", ops->name, err);
	return need;
}

/* --- the memory ---------------------------------------------------------------------- */

/*
 * A layer that stays whole takes no memory on the GPU and does not change the budgets of
 * the others, even if it has more KV heads.
 */
static void layers_with_more_heads(void)
{
	struct kvmod_scorer snapkv = {
		.instance = { .host = &host }, .budget = { .value = 32, .is_count = 1 },
		.window = WINDOW, .pool = 1,
	};
	struct kvmod_request all, cut;
	struct kvmod_workspace a, b;

	fill(0, MOST_HEADS, WINDOW, WINDOW);
	for (uint32_t i = 1; i < MOST_SEGMENTS; i++)
		fill(i, MOST_HEADS / 2, 5000, 20);
	all = request_of(segment_list, MOST_SEGMENTS);
	cut = request_of(segment_list + 1, MOST_SEGMENTS - 1);
	a = asked(&kv_cuda_snapkv_ops, &snapkv, &all);
	b = asked(&kv_cuda_snapkv_ops, &snapkv, &cut);
	CHECK(a.device == b.device, "snapkv asks for %llu bytes of the GPU: expected %llu",
	      (unsigned long long)a.device, (unsigned long long)b.device);
}

/* A softmax without a model's sinks is another one: the kernels know of none. */
static void sink_logits(void)
{
	static const float logits[MOST_HEADS] = { 1, 2, 3 };
	struct kvmod_scorer snapkv = {
		.instance = { .host = &host }, .budget = { .value = 32, .is_count = 1 },
		.window = WINDOW, .pool = 1,
	};
	struct kvmod_workspace need = { .size = sizeof(need) };
	struct kvmod_request request;
	int32_t err;

	for (uint32_t i = 0; i < 2; i++) {
		fill(0, MOST_HEADS, 1000, 1000);
		fill(1, MOST_HEADS, 1000, 1000);
		segments[i].sink_logits = logits;
		request = request_of(segment_list, 2);
		err = kv_cuda_snapkv_ops.workspace(&snapkv, &request, &need);
		CHECK(err == KVMOD_ENOTSUP, "workspace() of a cache with sink logits in segment %u gives %d", i, err);
		segments[i].sink_logits = NULL;
	}
}

/* Segments of an older header are shorter: memory ends with the last one. */
static void older_segments(void)
{
	struct refreekv refreekv = {
		.instance = { .host = &host }, .threshold = 0.01, .sinks = 4, .recent = 1,
		.rows = { .value = 1, .is_count = 1 }, .window = WINDOW,
	};
	const size_t size = offsetof(struct kvmod_segment, device);
	struct kvmod_workspace now, then;
	struct kvmod_request request;
	const struct kvmod_segment *older_list[1];
	char *older = malloc(size);

	fill(0, MOST_HEADS, 1000, 1000);
	request = request_of(segment_list, 1);
	now = asked(&kv_cuda_refreekv_ops, &refreekv, &request);
	segments[0].size = (uint32_t)size;
	if (older)
		memcpy(older, segments, size);
	older_list[0] = (const void *)older;
	request.segments = older_list;
	CHECK(older, "no memory");
	if (older) {
		then = asked(&kv_cuda_refreekv_ops, &refreekv, &request);
		CHECK(now.device == then.device && now.host == then.host,
		      "refreekv asks for another amount of memory for older segments");
	}
	free(older);
}

/* A row longer than its stride is refused for that reason, not as one that moves backwards. */
static void strides(void)
{
	struct kvmod_instance *device = calloc(1, kv_cuda_device_ops.instance_size);
	const struct kvmod_span span = { .end = 2 };
	const struct kvmod_gather gather = {
		.size = sizeof(gather), .n_spans = 1, .spans = &span, .row_bytes = 32,
		.src = numbers, .dst = numbers + 64, .src_stride = 16, .dst_stride = 32,
	};

	CHECK(device, "no memory");
	if (device) {
		device->host = &host;
		CHECK(kv_cuda_device_ops.gather(device, NULL, &gather, 1, sizeof(gather)) == KVMOD_EINVAL,
		      "a row longer than its stride is gathered");
		CHECK(strstr(reason, "stride"), "its reason: %s", reason);
	}
	free(device);
}

int main(void)
{
	layers_with_more_heads();
	sink_logits();
	older_segments();
	strides();
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
