/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod bench load: finding, checking, loading and opening a policy, against
 * dlopen of a file with nothing in it.
 */
#include "core/cli/cli.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EMPTY_FILE "libkvmod-empty.so"
#define MAX_ROUNDS 10000

struct load {
	struct kvmod_ctx *ctx;
	const char *policy;
	char *module;			/* its file, and the name to unload it by */
	char name[64];
	char *empty;
	size_t rounds;
	double *ours, *rival;		/* microseconds, [rounds] */
};

static const struct kvmod_model small_model = {
	.size = sizeof(small_model),
	.n_layers = 4,
	.n_q_heads = 4,
	.n_kv_heads = 2,
	.head_dim = 64,
	.n_vocab = 256,
	.context = 4096,
	.name = "small",
	.architecture = "none",
	.scale = 0.125f,
	.rope_base = 10000,
};

static int load_policy(struct load *l, double *us)
{
	double begin = cli_now();
	struct kvmod_policy *policy;

	if (kvmod_policy_open(l->ctx, l->policy, "cpu", &small_model, &policy))
		return cli_error_kvmod();
	*us = 1e6 * (cli_now() - begin);
	kvmod_policy_close(policy);
	return kvmod_unload(l->ctx, l->name) ? cli_error_kvmod() : CLI_OK;
}

static int load_empty(const struct load *l, double *us)
{
	double begin = cli_now();
	void *handle = dlopen(l->empty, RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		return cli_error("%s", dlerror());
	*us = 1e6 * (cli_now() - begin);
	dlclose(handle);
	return CLI_OK;
}

static int measure(struct load *l)
{
	double warm;

	if (load_policy(l, &warm) || load_empty(l, &warm))
		return CLI_FAILED;
	for (size_t i = 0; i < l->rounds; i++)
		if (load_policy(l, &l->ours[i]) || load_empty(l, &l->rival[i]))
			return CLI_FAILED;
	return CLI_OK;
}

static int report(const struct load *l, bool json)
{
	struct cli_stats ours = cli_stats(l->ours, l->rounds);
	struct cli_stats rival = cli_stats(l->rival, l->rounds);

	if (json)
		return cli_print_json(json_pack(
			"{s:s, s:o, s:I, s:o, s:o, s:f, s:f}",
			"policy", l->policy, "module", cli_json_text(l->module), "rounds", (json_int_t)l->rounds,
			"load_us", cli_stats_json(&ours), "dlopen_us", cli_stats_json(&rival),
			"above_us", ours.median - rival.median,
			"ratio", ours.median / rival.median));
	printf("policy %s from %s, %zu rounds\n", l->policy, cli_show(l->module), l->rounds);
	printf("found, checked, loaded, opened  %8.1f us  (%.1f to %.1f)\n",
	       ours.median, ours.low, ours.high);
	printf("dlopen of an empty file         %8.1f us  (%.1f to %.1f)\n",
	       rival.median, rival.low, rival.high);
	printf("above it                        %8.1f us  (ratio %.2f)\n",
	       ours.median - rival.median, ours.median / rival.median);
	return CLI_OK;
}

static int find_name(struct load *l)
{
	struct kvmod_modinfo *info;

	if (kvmod_modinfo_read(l->ctx, l->module, &info))
		return cli_error_kvmod();
	snprintf(l->name, sizeof(l->name), "%s", kvmod_modinfo_get(info, "name", 0));
	kvmod_modinfo_free(info);
	return CLI_OK;
}

/* Installed above the folder of modules; in a build tree beside them. */
static int find_empty(struct load *l)
{
	static const char *const places[] = { "../" EMPTY_FILE, EMPTY_FILE };
	int folder = (int)(strrchr(l->module, '/') - l->module);

	for (size_t i = 0; i < CLI_COUNT(places); i++) {
		free(l->empty);
		if (asprintf(&l->empty, "%.*s/%s", folder, l->module, places[i]) < 0) {
			l->empty = NULL;
			return cli_error("out of memory");
		}
		if (!access(l->empty, R_OK))
			return CLI_OK;
	}
	return cli_error("%s: no such file, to measure against", l->empty);
}

static int find_files(struct load *l)
{
	if (cli_find_module(l->ctx, l->policy, "cpu", &l->module) || find_name(l))
		return CLI_FAILED;
	return find_empty(l);
}

static int bench(struct load *l, bool json)
{
	int err = find_files(l);

	l->ours = calloc(l->rounds, sizeof(*l->ours));
	l->rival = calloc(l->rounds, sizeof(*l->rival));
	if (!err && (!l->ours || !l->rival))
		err = cli_error("out of memory");
	if (!err)
		err = measure(l);
	if (!err)
		err = report(l, json);
	free(l->ours);
	free(l->rival);
	free(l->module);
	free(l->empty);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	uint64_t rounds = 101;
	const struct cli_option options[] = {
		{ "rounds", 0, CLI_NUMBER, &rounds, "N", "of both, one after the other [101]" },
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err;
	struct load l = { 0 };

	if (first < argc)
		cli_usage_error(self, "`%s`: no operand was expected", argv[first]);
	if (rounds < 9 || rounds > MAX_ROUNDS)
		cli_usage_error(self, "--rounds=%llu: 9 to %d was expected",
				(unsigned long long)rounds, MAX_ROUNDS);
	l.rounds = rounds;
	l.ctx = cli_context(&common);
	if (!l.ctx)
		return CLI_FAILED;
	l.policy = kvmod_config_get(l.ctx, "kvmod", "policy");
	if (!l.policy || !strcmp(l.policy, "fullkv"))
		err = cli_error("the policy fullkv is built in: choose one that is a module");
	else
		err = bench(&l, common.json);
	kvmod_unref(l.ctx);
	return err;
}

const struct cli_command cli_bench_load = {
	.name = "bench load",
	.run = run,
	.summary = "loading a policy's module against dlopen of an empty file",
	.operands = "",
	.details = "Medians, with the quartiles; ratio is our time over dlopen's.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
