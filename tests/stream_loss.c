/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures a stream: the text of the files, again and again up to so many tokens, with
 * a bounded cache, beside libllama's way; the mean loss of each thousand tokens.
 *
 *	tests/stream_loss -m MODEL.gguf [-n 20000] [-b 512] [-s 4] [-e 64] [-g 0] FILE...
 */
#include <config.h>

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/streaming.h"

#define PER_LINE 1000u
#define NEAR 0.1

static int usage(void)
{
	fputs("usage: stream_loss -m MODEL.gguf [-n TOKENS] [-b BUDGET] [-s SINKS] [-e EVERY] "
	      "[-g GPU-LAYERS] FILE...\n", stderr);
	return EXIT_FAILURE;
}

static void stop(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(EXIT_FAILURE);
}

/* Appends the file's tokens to the array, up to n in total; returns the new total. */
static uint32_t add_file(struct kvmod_engine *engine, const char *path, int32_t *tokens, uint32_t n)
{
	const struct kvmod_engine_ops *ops = kvmod_engine_ops(engine);
	static char text[1 << 20];
	static int32_t ids[1 << 20];
	FILE *file = fopen(path, "r");
	size_t length, count = sizeof(ids) / sizeof(*ids);

	if (!file)
		stop(path);
	length = fread(text, 1, sizeof(text), file);
	fclose(file);
	if (ops->tokenize(kvmod_engine_instance(engine), text, length, 0, ids, &count) || !count)
		stop(kvmod_error());
	count = count < n ? count : n;
	memcpy(tokens, ids, count * sizeof(*ids));
	return (uint32_t)count;
}

static double mean(const double *loss, uint32_t from, uint32_t to)
{
	double sum = 0;

	for (uint32_t i = from; i < to; i++)
		sum += loss[i];
	return sum / (to - from);
}

/* Is each line near enough? */
static int print(const struct streaming *s, const double *ours, const double *theirs)
{
	int good = 1;

	printf("tokens          kvmod  libllama  difference\n");
	for (uint32_t i = 0; i < s->n; i += PER_LINE) {
		uint32_t end = i + PER_LINE < s->n ? i + PER_LINE : s->n;
		double a = mean(ours, i, end), b = mean(theirs, i, end);

		printf("%6u..%-6u  %6.3f    %6.3f     %+7.4f\n", i, end, a, b, a - b);
		good = good && fabs(a - b) <= NEAR;
	}
	printf("all             %6.3f    %6.3f     %+7.4f\n", mean(ours, 0, s->n),
	       mean(theirs, 0, s->n), mean(ours, 0, s->n) - mean(theirs, 0, s->n));
	return good;
}

int main(int argc, char **argv)
{
	struct streaming s = { .budget = 512, .sinks = 4, .every = 64, .n = 20000 };
	struct kvmod_ctx *ctx;
	struct kvmod_engine *engine;
	struct kvmod_policy *policy;
	double *ours, *theirs;
	int32_t *tokens;
	int option, good;

	while ((option = getopt(argc, argv, "m:n:b:s:e:g:")) != -1) {
		static const char letters[] = "nbseg";
		uint32_t *const numbers[] = { &s.n, &s.budget, &s.sinks, &s.every,
					      &s.gpu_layers };
		const char *letter = strchr(letters, option);

		if (option == 'm')
			s.model = optarg;
		else if (letter)
			*numbers[letter - letters] = (uint32_t)strtoul(optarg, NULL, 10);
		else
			return usage();
	}
	if (!s.model || optind == argc || !s.n || !s.every || s.sinks >= s.budget)
		return usage();
	streaming_open(&s, &ctx, &engine, &policy);
	s.tokens = tokens = calloc(s.n, sizeof(*tokens));
	ours = calloc(s.n, sizeof(*ours));
	theirs = calloc(s.n, sizeof(*theirs));
	if (!tokens || !ours || !theirs)
		stop("no memory");
	for (uint32_t n = 0, f = 0; n < s.n; f++)
		n += add_file(engine, argv[optind + (int)f % (argc - optind)], tokens + n, s.n - n);
	if (streaming_ours(&s, engine, policy, ours))
		stop(kvmod_error());
	if (streaming_libllama(&s, theirs))
		stop("libllama could not run it");
	good = print(&s, ours, theirs);
	kvmod_policy_close(policy);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
	free(tokens);
	free(ours);
	free(theirs);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
