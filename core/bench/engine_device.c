/* SPDX-License-Identifier: Apache-2.0 */
/* What `kvmod bench engine` asks of the device that its engine runs on. */
#include "core/bench/engine.h"

#include <stdlib.h>
#include <sys/stat.h>

#define READ_BYTES ((uint64_t)1 << 30)

const char *bench_place_name(const struct kvmod_model *m, char *text)
{
	if (KVMOD_HAS(m, device) && m->device)
		snprintf(text, BENCH_PLACE_ROOM, "%s, %u of %u layers", m->device,
			 m->n_device_layers, m->n_layers);
	else
		snprintf(text, BENCH_PLACE_ROOM, "cpu");
	return text;
}

/* 0 where the file is not known. */
static uint64_t model_bytes(struct kvmod_ctx *ctx, const char *rival)
{
	char section[128], *path = NULL;
	const char *file;
	struct stat st;
	uint64_t bytes;

	snprintf(section, sizeof(section), "engine %s", rival);
	file = kvmod_config_get(ctx, section, "model");
	if (!file && kvmod_data_path(ctx, "models/default.gguf", &path) == 0)
		file = path;
	bytes = file && stat(file, &st) == 0 ? (uint64_t)st.st_size : 0;
	free(path);
	return bytes;
}

/* Bytes a second, as a median; 0 where there is no room for it. */
static int measure_read(struct bench *b, double *rate)
{
	struct bench_device *d = &b->device;
	double ms[9];
	void *memory;
	int err = CLI_OK;

	*rate = 0;
	if (!bench_device_reads(d) || bench_device_free_bytes(d) < 2 * READ_BYTES)
		return CLI_OK;
	if (bench_device_alloc(d, READ_BYTES, &memory))
		return CLI_FAILED;
	for (size_t i = 0; i < CLI_COUNT(ms) && !err; i++)
		err = bench_device_time_read(d, memory, READ_BYTES, &ms[i]);
	if (!err)
		*rate = 1e3 * (double)READ_BYTES / cli_stats(ms, CLI_COUNT(ms)).median;
	d->ops->free(d->self, memory);
	return err;
}

int bench_open_device(struct bench *b, struct kvmod_ctx *ctx, const struct kvmod_model *model,
		      const char *rival)
{
	if (!KVMOD_HAS(model, device) || !model->device)
		return CLI_OK;
	if (bench_device_open(&b->device, ctx, model->device))
		return CLI_FAILED;
	b->weights = model_bytes(ctx, rival);
	return measure_read(b, &b->read_rate);
}

void bench_close_device(struct bench *b)
{
	bench_device_close(&b->device);
}

uint64_t bench_free_bytes(const struct bench *b)
{
	return b->device.ops ? bench_device_free_bytes(&b->device) : 0;
}
