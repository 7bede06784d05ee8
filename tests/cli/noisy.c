/* SPDX-License-Identifier: Apache-2.0 */
/* A policy that prints wherever it is called, and says what no terminal should get. */
#include <kvmod/policy.h>

#include <stdio.h>

struct noisy {
	struct kvmod_instance instance;
	int32_t refuse;
};

#define PARAMS(P, owner) \
	P(owner, struct noisy, refuse, BOOL, "no", "", "fail, in bytes that are no UTF-8")
KVMOD_PARAMS(policy, noisy, PARAMS);
KVMOD_RUNS_ON(noisy, "cpu");

static void print(const char *where)
{
	printf("noise from %s\n", where);
	fflush(stdout);
}

__attribute__((constructor)) static void loaded(void)
{
	print("the constructor");
}

static int32_t noisy_open(void *self_, const struct kvmod_model *model)
{
	struct noisy *self = self_;

	(void)model;
	print("open");
	if (!self->refuse)
		return KVMOD_OK;
	return self->instance.host->fail(self->instance.host->ctx, KVMOD_EINVAL,
					 "caf\xe9 \xc2\x9b" "31m \x1b[2J \xe2\x80\xaegnp.\xe2\x80\xac");
}

static int32_t noisy_compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	(void)self;
	(void)request;
	(void)plan;
	print("compress");
	return KVMOD_OK;
}

static const struct kvmod_policy_ops noisy_ops = {
	.size = sizeof(noisy_ops),
	.name = "noisy",
	.description = "prints wherever it is called",
	.instance_size = sizeof(struct noisy),
	.params = noisy_params,
	.n_params = sizeof(noisy_params) / sizeof(*noisy_params),
	.open = noisy_open,
	.compress = noisy_compress,
};

static int32_t noisy_init(const struct kvmod_host *host)
{
	print("init");
	return host->register_policy(host->ctx, &noisy_ops);
}

KVMOD_MODULE("noisy", "1", "Apache-2.0", "\xe2\x81\xa6nobody\xe2\x81\xa9",
	     "red \xc2\x9b" "31m and \xe2\x80\xaeturned", 0, noisy_init, NULL);
