/* SPDX-License-Identifier: Apache-2.0 */
/* The default model with its weights as F32, and how far two predictions are apart. */
#include "tests/e2e_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

size_t e2e_best(const float *logits, size_t n)
{
	size_t at = 0;

	for (size_t i = 1; i < n; i++)
		at = logits[i] > logits[at] ? i : at;
	return at;
}

static double log_sum(const float *logits, size_t n)
{
	double max = (double)logits[e2e_best(logits, n)], sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += exp((double)logits[i] - max);
	return max + log(sum);
}

double e2e_divergence(const float *a, const float *b, size_t n)
{
	double a_sum = log_sum(a, n), b_sum = log_sum(b, n), sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += exp((double)a[i] - a_sum) * ((double)a[i] - a_sum - (double)b[i] + b_sum);
	return sum;
}

static void silent(enum ggml_log_level level, const char *text, void *arg)
{
	(void)level, (void)text, (void)arg;
}

static int write_f32(const char *model, char *f32, size_t room)
{
	llama_model_quantize_params params = llama_model_quantize_default_params();
	const char *folder = getenv("TMPDIR");
	int fd;

	snprintf(f32, room, "%s/kvmod-f32-XXXXXX", folder ? folder : "/tmp");
	fd = mkstemp(f32);
	if (fd < 0)
		return -1;
	close(fd);
	params.nthread = 1;
	params.ftype = LLAMA_FTYPE_ALL_F32;
	params.allow_requantize = true;
	llama_log_set(silent, NULL);
	return llama_model_quantize(model, f32, &params) ? -1 : 0;
}

int e2e_main(const char *suite, const char *model, char **f32, void (*add)(TCase *tc))
{
	static char path[256];
	int code = write_f32(model, path, sizeof(path));

	*f32 = path;
	if (code)
		fprintf(stderr, "cannot write %s as F32 to %s\n", model, path);
	else
		code = test_main(suite, add);
	unlink(path);
	return code ? EXIT_FAILURE : EXIT_SUCCESS;
}
