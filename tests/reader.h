/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of devices: a policy "reader" that compares every byte that it is
 * handed with what it should be, and a cache of which layers lie where one likes.
 */
#ifndef KV_TESTS_READER_H
#define KV_TESTS_READER_H

#include "tests/fixture.h"
#include "tests/madeup_gpu.h"

#include <stdbool.h>

#define LAYERS	4u
#define Q_HEADS	4u
#define HEADS	2u
#define DIM	8u
#define ROWS	3u

#define CPU	"cpu"
#define GPU	KVMOD_STR(MADEUP_DEVICE)
#define BOTH	CPU " " GPU

extern struct reader {
	/* What it is to be. */
	uint32_t what, rows;
	const char *on, *also_on;	/* versions; also_on NULL: there is one only */
	uint64_t host_scratch, device_scratch;
	bool asks_for_device, cannot_open, wordless;
	const char *not_on;		/* the version that finds out that it cannot */
	int32_t code, workspace_code;
	uintptr_t beyond;		/* what its device adds to addresses of the made-up GPU */
	/* What it saw. */
	char device[16];
	const void *stream;
	void *scratch, *given_host_scratch;
	unsigned n_views, n_wrong;
	uint32_t there, there_rows;	/* KVMOD_NEED_... of all views, and the most rows of Q */
	const struct kvmod_device_ops *ops;
	void *self;
	const void *replayed_segments;
	int32_t answer;
} reader;

/* What a byte of a row is, wherever it lies. */
enum of { OF_K, OF_V, OF_Q, OF_COLSUM, OF_NORM, OF_MEAN, OF_COV };
uint8_t reader_byte(enum of of, uint32_t layer, uint32_t head, uint32_t row, size_t byte);
#define READER_ALL	(KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_COLSUM | \
			 KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM)
/* How many rows of K, V and Q, numbers of a head, and rows of matrices there are to see. */
unsigned reader_views(uint32_t what, uint32_t rows);

/* Rows end to end; with gaps between them; K of all heads row by row. */
enum layout { DENSE, GAPS, INTERLEAVED };

extern struct kvmod_head heads[LAYERS][HEADS];
extern struct kvmod_segment segments[LAYERS];
extern const struct kvmod_segment *segment_list[LAYERS];	/* of these */
extern struct kvmod_request request;
extern struct kvmod_plan *plan;
/* KV heads differ in length. */
uint32_t reader_length(uint32_t layer, uint32_t head);
/* Layers below `split` lie on the one device, the others on the other. */
void make_request(const char *below, const char *above, uint32_t split, enum layout layout);

/* A context with the made-up GPU and the reader, which has versions for two devices. */
struct kvmod_ctx *reader_context(const char *on, const char *also_on);
extern const struct kvmod_model reader_model;
extern const struct kvmod_module reader_module;
struct kvmod_policy *open_reader(struct kvmod_ctx *ctx, const char *device);
/* Closes and frees all of it, and sees that nothing is left. */
void reader_end(struct kvmod_ctx *ctx, struct kvmod_policy *policy);

#endif
