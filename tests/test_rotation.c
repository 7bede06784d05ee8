/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows that an engine stores rotated: a policy on the CPU gets plain floats, wherever
 * they lie, and one on a GPU a refusal in words.
 */
#include <check.h>
#undef fail			/* the old name of ck_abort_msg() */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/kvmod.h>

#include "core/run/describe.h"
#include "core/testkit/random.h"
#include "kernels/cpu/logits.h"
#include "tests/madeup_gpu.h"

#define LAYERS	2u
#define HEADS	2u
#define Q_HEADS	4u
#define DIM	64u
#define N	10u
#define ROWS	3u

/* --- a policy that looks at what it is handed ------------------------------------------- */

static struct {
	uint32_t what, rows, types;
	unsigned n_calls;
	float k[LAYERS][HEADS][N][DIM], q[LAYERS][ROWS][Q_HEADS][DIM];
	struct kvmod_view v;
} peek;

static int32_t peek_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = peek.what;
	needs->types = peek.types;
	needs->rows = (struct kvmod_amount){ .value = peek.rows, .is_count = 1 };
	return KVMOD_OK;
}

static void read_floats(const struct kvmod_view *v, int64_t at, float *out)
{
	ck_assert_uint_eq(v->type, KVMOD_F32);
	ck_assert_uint_eq(v->rotation, 0);
	memcpy(out, (const char *)v->data + at, DIM * sizeof(*out));
}

static int32_t peek_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	(void)self;
	(void)plan;
	peek.n_calls++;
	for (uint32_t l = 0; l < r->n_segments; l++) {
		const struct kvmod_segment *s = r->segments[l];

		for (uint32_t g = 0; g < HEADS && peek.what & KVMOD_NEED_K; g++)
			for (uint32_t i = 0; i < N; i++)
				read_floats(&s->heads[g]->k, i * s->heads[g]->k.stride, peek.k[l][g][i]);
		for (uint32_t i = 0; i < ROWS * Q_HEADS && peek.rows; i++)
			read_floats(&s->q, i / Q_HEADS * s->q.stride + i % Q_HEADS * s->q.head_stride,
				    peek.q[l][i / Q_HEADS][i % Q_HEADS]);
		peek.v = s->heads[0]->v;
	}
	return KVMOD_OK;
}

static int32_t peek_init(const struct kvmod_host *host)
{
	struct kvmod_policy_ops ops = {
		.size = sizeof(ops), .name = "peek", .description = "looks at rows",
		.instance_size = sizeof(struct kvmod_instance),
		.needs = peek_needs, .compress = peek_compress,
	};
	int32_t err = host->register_policy(host->ctx, &ops);

	ops.devices = "cuda";
	return err ? err : host->register_policy(host->ctx, &ops);
}

static const struct kvmod_module peek_module = {
	.size = sizeof(peek_module), .magic = KVMOD_MAGIC, .abi_major = KVMOD_ABI_MAJOR,
	.name = "peek", .version = "1", .license = "Apache-2.0", .init = peek_init,
};

/* --- a cache that is stored rotated ------------------------------------------------------- */

static struct kvmod_ctx *ctx;
static struct kvmod_policy *policy;
static struct kv_described cache;
static struct kvmod_plan *plan;
static void *memories[64];
static bool on_gpu;
static unsigned n_memories;
/* What the stored rows are, turned back. */
static double k[LAYERS][HEADS][N][DIM], q[LAYERS][ROWS][Q_HEADS][DIM];

/* H x, with the matrix of d dimensions as its definition has it. */
static void turn(const float *x, uint32_t d, double *out)
{
	for (uint32_t i = 0; i < DIM; i++) {
		out[i] = 0;
		for (uint32_t j = 0; j < d; j++) {
			double x_j = x[i / d * d + j];

			out[i] += __builtin_popcount(i % d & j) % 2 ? -x_j : x_j;
		}
		out[i] /= sqrt(d);
	}
}

/* Rows of such a type, `stride` apart, and what they are before they were rotated by d. */
static struct kvmod_view store(struct kv_random *r, uint32_t type, uint32_t d, uint32_t n, size_t stride,
			       double (*plain)[DIM])
{
	void *memory = on_gpu ? gpu_alloc(n * stride) : malloc(n * stride);
	char *rows = on_gpu ? gpu_reach(memory) : memory;
	float x[DIM];

	ck_assert_ptr_nonnull(memory);
	memories[n_memories++] = memory;
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t j = 0; j < DIM; j++)
			x[j] = kv_random_normal(r);
		kv_encode(type, x, DIM, rows + i * stride);
		kv_cpu_to_f32(type, rows + i * stride, DIM, x);
		if (d)
			turn(x, d, plain[i]);
	}
	return (struct kvmod_view){ .type = type, .rotation = d, .data = memory, .stride = (int64_t)stride };
}

static const struct kv_shape shape = {
	.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = Q_HEADS, .n_kv_heads = HEADS,
	.head_dim = DIM,
};

static void make_cache(uint32_t type, uint32_t d)
{
	struct kv_random r = { 5 };
	size_t row = kvmod_row_bytes(type, DIM);

	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	for (uint32_t l = 0; l < LAYERS; l++) {
		struct kvmod_segment *s = &cache.segments[l];

		s->device = on_gpu ? "cuda" : "cpu";
		for (uint32_t g = 0; g < HEADS; g++) {
			struct kvmod_head *head = &cache.heads[l * HEADS + g];

			head->k = store(&r, type, d, N, row + 6, k[l][g]);
			head->v = store(&r, KVMOD_F16, 0, N, 2 * DIM, NULL);
		}
		s->n_rows = ROWS;
		s->q = store(&r, KVMOD_F32, d, ROWS * Q_HEADS, 4 * DIM, q[l][0]);
		s->q.stride *= Q_HEADS;
		s->q.head_stride = 4 * DIM;
	}
	ck_assert_msg(!kvmod_plan_new(&cache.request, &plan), "%s", kvmod_error());
}

static void start(uint32_t what, uint32_t rows, const char *policy_on, bool cache_on_gpu, uint32_t type,
		  uint32_t d)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 64);

	memset(&gpu, 0, sizeof(gpu));
	memset(&peek, 0, sizeof(peek));
	peek.what = what;
	peek.rows = rows;
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log_level(ctx, 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &gpu_module), 0);
	ck_assert_msg(!kvmod_add_builtin(ctx, &peek_module), "%s", kvmod_error());
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", NULL, 0), "%s", kvmod_error());
	ck_assert_msg(!kvmod_policy_open(ctx, "peek", policy_on, &model, &policy), "%s", kvmod_error());
	on_gpu = cache_on_gpu;
	make_cache(type, d);
}

static void end(void)
{
	kvmod_plan_free(plan);
	kv_undescribe(&cache);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	while (n_memories > 0) {
		void *memory = memories[--n_memories];

		if (on_gpu)
			gpu_free(memory);
		else
			free(memory);
	}
	ck_assert_uint_eq(gpu.n_live, 0);
}

static void check_floats(const float *is, const double *expected, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(fabs((double)is[i] - expected[i]) < 1e-5, "element %zu is %g, expected %g", i,
			      (double)is[i], expected[i]);
}

/* --- tests ------------------------------------------------------------------------------ */

static const struct { uint32_t type, d; } stored[] = {
	{ KVMOD_F32, 2 }, { KVMOD_F32, 64 }, { KVMOD_F16, 32 }, { KVMOD_BF16, 16 }, { KVMOD_Q8_0, 64 },
	{ KVMOD_Q4_0, 64 }, { KVMOD_Q4_0, 32 }, { KVMOD_F32, 1 },
};
#define N_STORED 8

/* The CPU's own cache, and one that is copied from a GPU. */
START_TEST(policies_on_the_cpu_get_plain_floats)
{
	start(KVMOD_NEED_K, ROWS, "cpu", _i >= N_STORED, stored[_i % N_STORED].type, stored[_i % N_STORED].d);
	for (unsigned again = 1; again <= 2; again++) {
		ck_assert_msg(!kvmod_decide(policy, &cache.request, plan), "%s", kvmod_error());
		ck_assert_uint_eq(peek.n_calls, again);
		check_floats(peek.k[0][0][0], k[0][0][0], LAYERS * HEADS * N * DIM);
		check_floats(peek.q[0][0][0], q[0][0][0], LAYERS * ROWS * Q_HEADS * DIM);
		memset(peek.k, 0, sizeof(peek.k));
	}
	/* The engine's own views are as they were. */
	ck_assert_uint_eq(cache.segments[1].heads[1]->k.rotation, stored[_i % N_STORED].d);
	ck_assert_uint_eq(cache.segments[1].heads[1]->k.type, stored[_i % N_STORED].type);
	end();
}
END_TEST

/* It gets floats, so floats are what it has to read. */
START_TEST(types_are_those_that_are_handed_out)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 64);

	start(KVMOD_NEED_K, 0, "cpu", false, KVMOD_Q4_0, 32);
	kvmod_policy_close(policy);
	peek.types = KVMOD_TYPE_BIT(KVMOD_F32);
	ck_assert_int_eq(kvmod_policy_open(ctx, "peek", "cpu", &model, &policy), 0);
	ck_assert_msg(!kvmod_decide(policy, &cache.request, plan), "%s", kvmod_error());
	check_floats(peek.k[0][0][0], k[0][0][0], LAYERS * HEADS * N * DIM);
	for (uint32_t i = 0; i < LAYERS * HEADS; i++)
		cache.heads[i].k.rotation = 0;
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), "policy peek: layer 0: the policy does not read the element type of K");
	end();
}
END_TEST

START_TEST(policies_on_a_gpu_are_refused)
{
	start(KVMOD_NEED_K, 0, "cuda", true, KVMOD_F16, 64);
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), "policy peek: layer 0: K is stored rotated, which a policy on cuda "
			 "cannot read: run the policy on the CPU");
	ck_assert_uint_eq(peek.n_calls, 0);
	ck_assert_int_eq(plan->keeps[0]->status, KVMOD_ENOTSUP);
	ck_assert_uint_eq(plan->keeps[0]->kind, KVMOD_KEEP_ALL);
	end();
}
END_TEST

/* What a policy does not read may be stored as it likes. */
START_TEST(what_is_not_read_is_no_matter)
{
	start(KVMOD_NEED_V, 0, _i ? "cuda" : "cpu", _i, KVMOD_F16, 64);
	ck_assert_msg(!kvmod_decide(policy, &cache.request, plan), "%s", kvmod_error());
	ck_assert_uint_eq(peek.n_calls, 1);
	ck_assert_uint_eq(peek.v.type, KVMOD_F16);
	ck_assert_ptr_eq(peek.v.data, cache.heads[(LAYERS - 1) * HEADS].v.data);
	end();
}
END_TEST

START_TEST(rotations_that_cannot_be)
{
	static const struct { uint32_t d; const char *why; } wrong[] = {
		{ 3, "policy peek: layer 1: K has a rotation of 3, expected 0 or a power of two that "
		     "divides head_dim, 64" },
		{ 128, "policy peek: layer 1: K has a rotation of 128, expected 0 or a power of two that "
		       "divides head_dim, 64" },
	};

	start(KVMOD_NEED_K, 0, "cpu", false, KVMOD_F16, 64);
	cache.heads[HEADS + 1].k.rotation = wrong[_i].d;
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), wrong[_i].why);
	end();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rotation");
	TCase *tc = tcase_create("rotation");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tc, policies_on_the_cpu_get_plain_floats, 0, 2 * N_STORED);
	tcase_add_test(tc, types_are_those_that_are_handed_out);
	tcase_add_test(tc, policies_on_a_gpu_are_refused);
	tcase_add_loop_test(tc, what_is_not_read_is_no_matter, 0, 2);
	tcase_add_loop_test(tc, rotations_that_cannot_be, 0, 2);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
