/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine without a model, for tests of what stands above engines. A token is
 * a byte. It says the last message back, one token after the other, then ends;
 * but each layer and KV head votes for the token that is due only if it still
 * caches that token's position, and for '.' if not. So its answer, and its
 * distributions, depend on what a policy kept.
 */
#include "tests/cli/fake_engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK	16		/* tokens of a prompt between two calls of progress */

static const int32_t end_tokens[] = { END };

/* The cache of one KV head. */
struct rows {
	uint32_t n;
	int32_t *positions;
	float (*k)[DIM], (*v)[DIM];
};

struct kvmod_seq {
	uint64_t length;
	int32_t *tokens;
	uint64_t prompt_begin, prompt_end, text_begin;
	uint32_t n_rows;
	struct rows cache[LAYERS][HEADS];

	/* What request() lends. */
	struct kvmod_segment segments[LAYERS];
	struct kvmod_head heads[LAYERS][HEADS];
	const struct kvmod_segment *segment_list[LAYERS];	/* of these */
	const struct kvmod_head *head_list[LAYERS][HEADS];
	float *q;			/* [LAYERS][n_rows][Q_HEADS][DIM] */
	struct fake *fake;
};

#define FAKE_PARAMS(P, owner) \
	P(owner, struct fake, model, PATH, "", "", "a file that must be there, if any is named") \
	P(owner, struct fake, context, INT, "4096", "1..1048576", "longest sequence, in tokens") \
	P(owner, struct fake, context_override, BOOL, "no", "", "let decoding go past the context") \
	P(owner, struct fake, threads, INT, "0", "0..512", "taken as other engines do; one does it all") \
	P(owner, struct fake, delay, INT, "0", "0..10000", "milliseconds that a text takes, or a chunk of tokens") \
	P(owner, struct fake, repeat, INT, "1", "1..1048576", "how many times the byte of a token stands in its text") \
	P(owner, struct fake, notes, PATH, "", "", "a file that gets a line for each prompt, and for what is read or run again") \
	P(owner, struct fake, broken, CHOICE, "nothing", "nothing|request|apply|text|chat", "which call fails") \
	P(owner, struct fake, replay, CHOICE, "no", "no|yes|fails|nan", "can it run tokens again?") \
	P(owner, struct fake, device, STRING, "", "", "the device to say that the layers are on")
KVMOD_PARAMS(engine, fake, FAKE_PARAMS);

static int32_t fake_open(void *self)
{
	struct fake *f = self;
	const struct kvmod_host *host = f->instance.host;

	if (*f->model && access(f->model, R_OK))
		return host->fail(host->ctx, KVMOD_ENOENT, "%s: no such model", f->model);
	f->about = (struct kvmod_model){
		.size = sizeof(f->about),
		.n_layers = LAYERS,
		.n_q_heads = Q_HEADS,
		.n_kv_heads = HEADS,
		.head_dim = DIM,
		.n_vocab = VOCAB,
		.context = (uint64_t)f->context,
		.name = "Echo",
		.architecture = "fake",
		.scale = 0.1767767f,
		.rope_base = 10000.0f,
		.end_tokens = end_tokens,
		.n_end_tokens = 1,
		.n_window_layers = FAKE_WINDOW_LAYERS,
		.n_device_layers = *f->device ? LAYERS : 0,
		.device = *f->device ? f->device : NULL,
	};
	return KVMOD_OK;
}

static void fake_close(void *self)
{
	(void)self;
}

static const struct kvmod_model *fake_model(void *self)
{
	return &((struct fake *)self)->about;
}

/* --- sequences -------------------------------------------------------------------- */

static int32_t no_memory(struct fake *f)
{
	const struct kvmod_host *host = f->instance.host;

	return host->fail(host->ctx, KVMOD_ENOMEM, "no memory for a sequence");
}

static void seq_close(void *self, struct kvmod_seq *seq)
{
	(void)self;
	if (!seq)
		return;
	for (int l = 0; l < LAYERS; l++) {
		for (int g = 0; g < HEADS; g++) {
			free(seq->cache[l][g].positions);
			free(seq->cache[l][g].k);
			free(seq->cache[l][g].v);
		}
	}
	free(seq->tokens);
	free(seq->q);
	free(seq);
}

static int32_t seq_open(void *self, struct kvmod_seq **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? KVMOD_OK : no_memory(self);
}

/* Room for n rows, and no more. */
static int resize_rows(struct rows *r, size_t n)
{
	int32_t *positions = realloc(r->positions, (n + 1) * sizeof(*positions));
	float (*k)[DIM] = realloc(r->k, (n + 1) * sizeof(*k));
	float (*v)[DIM] = realloc(r->v, (n + 1) * sizeof(*v));

	r->positions = positions ? positions : r->positions;
	r->k = k ? k : r->k;
	r->v = v ? v : r->v;
	return positions && k && v ? 0 : -1;
}

static int resize_seq(struct kvmod_seq *seq, uint64_t n)
{
	int32_t *tokens = realloc(seq->tokens, (seq->length + n) * sizeof(*tokens));

	if (!tokens)
		return -1;
	seq->tokens = tokens;
	for (int l = 0; l < LAYERS; l++)
		for (int g = 0; g < HEADS; g++)
			if (resize_rows(&seq->cache[l][g], seq->cache[l][g].n + n))
				return -1;
	return 0;
}

static int32_t seq_fork(void *self, struct kvmod_seq *seq, struct kvmod_seq **out)
{
	struct kvmod_seq *copy = calloc(1, sizeof(*copy));

	if (!copy)
		return no_memory(self);
	if (resize_seq(copy, seq->length)) {
		seq_close(self, copy);
		return no_memory(self);
	}
	copy->length = seq->length;
	copy->prompt_begin = seq->prompt_begin;
	copy->prompt_end = seq->prompt_end;
	copy->text_begin = seq->text_begin;
	copy->n_rows = seq->n_rows;
	copy->fake = seq->fake;
	if (seq->length)	/* else there is no memory yet */
		memcpy(copy->tokens, seq->tokens, seq->length * sizeof(*seq->tokens));
	for (int l = 0; l < LAYERS; l++) {
		for (int g = 0; g < HEADS; g++) {
			struct rows *to = &copy->cache[l][g];
			const struct rows *from = &seq->cache[l][g];

			to->n = from->n;
			if (!from->n)
				continue;
			memcpy(to->positions, from->positions, from->n * sizeof(*from->positions));
			memcpy(to->k, from->k, from->n * sizeof(*from->k));
			memcpy(to->v, from->v, from->n * sizeof(*from->v));
		}
	}
	*out = copy;
	return KVMOD_OK;
}

static int32_t seq_truncate(void *self, struct kvmod_seq *seq, uint64_t logical)
{
	struct fake *f = self;
	const struct kvmod_host *host = f->instance.host;

	if (logical > seq->length)
		return host->fail(host->ctx, KVMOD_ERANGE, "the sequence has %llu positions",
				  (unsigned long long)seq->length);
	seq->length = logical;
	for (int l = 0; l < LAYERS; l++) {
		for (int g = 0; g < HEADS; g++) {
			struct rows *r = &seq->cache[l][g];

			while (r->n && (uint64_t)r->positions[r->n - 1] >= logical)
				r->n--;
		}
	}
	return KVMOD_OK;
}

static uint64_t seq_length(void *self, struct kvmod_seq *seq)
{
	(void)self;
	return seq->length;
}

/* --- steps ---------------------------------------------------------------------------- */

/* DIM numbers in -1..1 that depend on all the arguments. */
static void make_row(float *row, uint32_t what, uint32_t layer, uint32_t head, uint32_t token)
{
	uint64_t x = ((uint64_t)what << 48) ^ ((uint64_t)layer << 32) ^ (head << 16) ^ token;

	for (int d = 0; d < DIM; d++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		row[d] = (float)(int32_t)(x >> 32) / 2147483648.0f;
	}
}

static void append(struct kvmod_seq *seq, int32_t token)
{
	for (uint32_t l = 0; l < LAYERS; l++) {
		for (uint32_t g = 0; g < HEADS; g++) {
			struct rows *r = &seq->cache[l][g];

			r->positions[r->n] = (int32_t)seq->length;
			make_row(r->k[r->n], 1, l, g, (uint32_t)token);
			make_row(r->v[r->n], 2, l, g, (uint32_t)token);
			r->n++;
		}
	}
	seq->tokens[seq->length++] = token;
}

static int is_cached(const struct rows *r, uint64_t position)
{
	for (uint32_t i = 0; i < r->n; i++)
		if ((uint64_t)r->positions[i] == position)
			return 1;
	return 0;
}

static void make_logits(const struct kvmod_seq *seq, float *logits)
{
	uint64_t due = seq->text_begin + (seq->length - seq->prompt_end);
	int ended = due >= seq->prompt_end || seq->tokens[due] == ASSISTANT;

	memset(logits, 0, VOCAB * sizeof(*logits));
	for (int l = 0; l < LAYERS; l++) {
		for (int g = 0; g < HEADS; g++) {
			if (ended)
				logits[END] += 2;
			else if (is_cached(&seq->cache[l][g], due))
				logits[seq->tokens[due]] += 2;
			else
				logits['.'] += 2;
		}
	}
}

static int32_t too_long(struct fake *f, uint64_t length, uint64_t more)
{
	const struct kvmod_host *host = f->instance.host;

	return host->fail(host->ctx, KVMOD_ERANGE,
			  "%llu new and %llu cached tokens exceed the context of %lld",
			  (unsigned long long)more, (unsigned long long)length,
			  (long long)f->context);
}

static void note(const struct fake *f, const char *what, uint64_t begin, uint64_t end)
{
	FILE *file = *f->notes ? fopen(f->notes, "ae") : NULL;

	if (!file)
		return;
	fprintf(file, "%s %llu-%llu\n", what, (unsigned long long)begin, (unsigned long long)end);
	fclose(file);
}

static int32_t prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n,
			    const struct kvmod_needs *needs)
{
	struct fake *f = self;

	if (seq->length + n > (uint64_t)f->context)
		return too_long(f, seq->length, n);
	note(f, "prompt", seq->length, seq->length + n);
	seq->fake = f;
	seq->n_rows = needs ? kvmod_needs_rows(needs, n) : 0;
	seq->prompt_begin = seq->length;
	seq->prompt_end = seq->length + n;
	return KVMOD_OK;
}

/* Only the number of rows depends on needs, and the rows are made anew for each request. */
static int32_t seq_narrow(void *self, struct kvmod_seq *seq, uint64_t n, const struct kvmod_needs *needs)
{
	(void)self;
	seq->n_rows = needs ? kvmod_needs_rows(needs, n) : 0;
	return KVMOD_OK;
}

/* A prompt that begins no text continues the one before: a question after its context. */
static void note_text(struct kvmod_seq *seq)
{
	for (uint64_t i = seq->prompt_begin; i < seq->prompt_end; i++)
		if (seq->tokens[i] == USER || seq->tokens[i] == BOS)
			seq->text_begin = i + 1;
}

static const struct kvmod_batch_item *item_at(const struct kvmod_batch *batch, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_batch_item, batch->items, batch->item_stride, i);
}

static void forget_tokens(struct fake *f, struct kvmod_seq *seq, uint64_t n)
{
	seq_truncate(f, seq, seq->length - n);
}

static int32_t step_item(struct fake *f, const struct kvmod_batch *batch,
			 const struct kvmod_batch_item *item)
{
	struct kvmod_seq *seq = item->seq;

	if (resize_seq(seq, item->n_tokens))
		return no_memory(f);
	for (uint32_t i = 0; i < item->n_tokens; i++) {
		if (i % CHUNK == 0 && fake_take_time_or_stop(f)) {
			forget_tokens(f, seq, i);
			return KVMOD_ECANCELED;
		}
		append(seq, item->tokens[i]);
		if (seq->length == seq->prompt_end)
			note_text(seq);
		if (i + item->n_logits >= item->n_tokens)
			make_logits(seq, item->logits +
				    (size_t)(i + item->n_logits - item->n_tokens) * VOCAB);
		if (batch->progress && (i % CHUNK == CHUNK - 1 || i + 1 == item->n_tokens))
			batch->progress(batch->progress_arg, i + 1);
	}
	return KVMOD_OK;
}

static int32_t step(void *self, const struct kvmod_batch *batch)
{
	struct fake *f = self;
	int32_t err = KVMOD_OK;

	atomic_store(&f->cancelled, 0);
	for (uint32_t i = 0; i < batch->n_items; i++) {
		const struct kvmod_batch_item *item = item_at(batch, i);

		if (!f->context_override &&
		    item->seq->length + item->n_tokens > (uint64_t)f->context)
			return too_long(f, item->seq->length, item->n_tokens);
	}
	for (uint32_t i = 0; i < batch->n_items && err == KVMOD_OK; i++) {
		err = step_item(f, batch, item_at(batch, i));
		for (uint32_t j = 0; j < i && err != KVMOD_OK; j++)
			forget_tokens(f, item_at(batch, j)->seq, item_at(batch, j)->n_tokens);
	}
	return err;
}

static void cancel(void *self)
{
	atomic_store(&((struct fake *)self)->cancelled, 1);
}

/* --- requests ----------------------------------------------------------------------------- */

static struct kvmod_view view_of(const void *data, size_t width, size_t head_width)
{
	return (struct kvmod_view){
		.type = KVMOD_F32,
		.data = data,
		.stride = (int64_t)(width * sizeof(float)),
		.head_stride = (int64_t)(head_width * sizeof(float)),
	};
}

static void describe_layer(struct kvmod_seq *seq, uint32_t layer, uint32_t n_rows)
{
	float *q = seq->q + (size_t)layer * n_rows * Q_HEADS * DIM;

	for (uint32_t g = 0; g < HEADS; g++) {
		const struct rows *r = &seq->cache[layer][g];

		seq->heads[layer][g] = (struct kvmod_head){
			.size = sizeof(struct kvmod_head),
			.n = r->n,
			.k = view_of(r->k, DIM, 0),
			.v = view_of(r->v, DIM, 0),
			.positions = r->positions,
		};
	}
	for (uint32_t i = 0; i < n_rows * Q_HEADS; i++)
		make_row(q + (size_t)i * DIM, 1, layer, i % Q_HEADS / (Q_HEADS / HEADS),
			 (uint32_t)seq->tokens[seq->length - n_rows + i / Q_HEADS]);
	kvmod_list_heads(seq->head_list[layer], seq->heads[layer], HEADS);
	seq->segments[layer] = (struct kvmod_segment){
		.size = sizeof(struct kvmod_segment),
		.layer = layer,
		.logical = seq->length,
		.n_q_heads = Q_HEADS,
		.n_kv_heads = HEADS,
		.head_dim = DIM,
		.total_heads = HEADS,
		.scale = 0.1767767f,
		.heads = seq->head_list[layer],
		.q = view_of(q, Q_HEADS * DIM, DIM),
		.n_rows = n_rows,
	};
}

/* Each head has a price, 1 to 8 thousandths, for a position that the plan drops. */
static int32_t replay(const struct kvmod_request *request, const struct kvmod_plan *plan, uint32_t rows,
		      double *loss)
{
	const struct kvmod_seq *seq = request->replay_ctx;
	struct fake *f = seq->fake;
	const struct kvmod_host *host = f->instance.host;

	note(f, "replay", seq->length - rows, seq->length);
	if (f->replay == REPLAY_FAILS || fake_take_time_or_stop(f))
		return host->fail(host->ctx, KVMOD_ENOMEM, "no memory to replay %u tokens", rows);
	*loss = f->replay == REPLAY_NAN ? (double)NAN : 0;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		for (uint32_t g = 0; g < HEADS && keep->kind == KVMOD_KEEP_HEADS; g++)
			*loss += 1e-3 * ((7 * (s->layer * HEADS + g) + 3) % 8 + 1) *
				 (kvmod_head_at(s, g)->n - keep->counts[g]);
	}
	return KVMOD_OK;
}

/* Digits are worth repeating. */
static int32_t reread(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	const struct kvmod_seq *seq = r->replay_ctx;

	note(seq->fake, "reread", what->begin, what->end);
	for (uint32_t i = 0; i < r->n_segments * HEADS; i++)
		for (uint64_t at = what->begin; at < what->end; at++)
			*out++ = is_cached(&seq->cache[FAKE_WINDOW_LAYERS + i / HEADS][i % HEADS], at) &&
				 seq->tokens[at] >= '0' && seq->tokens[at] <= '9';
	return KVMOD_OK;
}

/* Capital letters are what an answer needs. */
static int32_t ask(const struct kvmod_request *r, const struct kvmod_ask *what, float *out)
{
	const struct kvmod_seq *seq = r->replay_ctx;

	note(seq->fake, "ask", seq->length, seq->length + what->n_answer);
	for (uint32_t i = 0; i < r->n_segments * HEADS; i++)
		for (uint64_t at = 0; at < seq->length; at++)
			*out++ = is_cached(&seq->cache[FAKE_WINDOW_LAYERS + i / HEADS][i % HEADS], at) &&
				 seq->tokens[at] >= 'A' && seq->tokens[at] <= 'Z';
	return KVMOD_OK;
}

static int32_t request(void *self, struct kvmod_seq *seq, struct kvmod_request *out)
{
	uint32_t n_rows = seq->n_rows;
	float *q;

	if (((struct fake *)self)->broken == BROKEN_REQUEST)
		return KVMOD_ENOTSUP;
	q = realloc(seq->q, (size_t)LAYERS * (n_rows + 1) * Q_HEADS * DIM * sizeof(*q));
	if (!q)
		return no_memory(self);
	seq->q = q;
	for (uint32_t l = 0; l < LAYERS; l++)
		describe_layer(seq, l, n_rows);
	kvmod_list_segments(seq->segment_list, seq->segments + FAKE_WINDOW_LAYERS, NAMED);
	*out = (struct kvmod_request){
		.size = sizeof(*out),
		.n_layers = LAYERS,
		.n_window_layers = FAKE_WINDOW_LAYERS,
		.n_segments = NAMED,
		.segments = seq->segment_list,
		.device = "cpu",
		.replay = seq->fake->replay == REPLAY_NO ? NULL : replay,
		.reread = reread,
		.ask = ask,
		.replay_ctx = seq,
	};
	return KVMOD_OK;
}

static void keep_row(struct rows *r, uint32_t *to, uint32_t from)
{
	r->positions[*to] = r->positions[from];
	memmove(r->k[*to], r->k[from], sizeof(*r->k));
	memmove(r->v[*to], r->v[from], sizeof(*r->v));
	(*to)++;
}

static void cut_head(struct rows *r, const struct kvmod_keep *keep, uint32_t g)
{
	uint32_t n = 0;

	if (keep->status || keep->kind == KVMOD_KEEP_ALL)
		return;
	if (keep->kind == KVMOD_KEEP_SPANS) {
		for (uint32_t s = 0; s < keep->n_spans; s++)
			for (uint32_t i = keep->spans[s].begin; i < keep->spans[s].end; i++)
				keep_row(r, &n, i);
	} else {
		for (uint32_t i = 0; i < keep->counts[g]; i++)
			keep_row(r, &n, keep->indices[g * keep->index_stride + i]);
	}
	r->n = n;
	(void)resize_rows(r, n);	/* what cannot shrink stays as it is */
}

static int32_t apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan)
{
	const struct kvmod_host *host = ((struct fake *)self)->instance.host;

	if (((struct fake *)self)->broken == BROKEN_APPLY)
		return no_memory(self);
	for (uint32_t i = 0; i < plan->n_keeps && i < NAMED; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (keep->k_store || keep->v_store)
			return host->fail(host->ctx, KVMOD_ENOTSUP, "rows are always f32 here");
		for (uint32_t g = 0; g < HEADS; g++)
			cut_head(&seq->cache[FAKE_WINDOW_LAYERS + i][g], keep, g);
	}
	return KVMOD_OK;
}

static void bytes(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out)
{
	const uint64_t row = 2 * DIM * sizeof(float);
	uint64_t rows = 0;

	(void)self;
	for (int l = 0; l < LAYERS; l++)
		for (int g = 0; g < HEADS; g++)
			rows += seq->cache[l][g].n;
	out->used = out->held = rows * row;
	out->full = seq->length * LAYERS * HEADS * row;
}

static const struct kvmod_engine_ops ops = {
	.size = sizeof(ops),
	.name = "fake",
	.description = "says the prompt back",
	.instance_size = sizeof(struct fake),
	.n_params = sizeof(fake_params) / sizeof(*fake_params),
	.params = fake_params,
	.open = fake_open,
	.close = fake_close,
	.model = fake_model,
	.tokenize = fake_tokenize,
	.detokenize = fake_detokenize,
	.chat = fake_chat,
	.seq_open = seq_open,
	.seq_close = seq_close,
	.seq_fork = seq_fork,
	.seq_truncate = seq_truncate,
	.seq_length = seq_length,
	.prompt_begin = prompt_begin,
	.step = step,
	.cancel = cancel,
	.request = request,
	.apply = apply,
	.bytes = bytes,
	.chat_part = fake_chat_part,
	.seq_narrow = seq_narrow,
};

static int32_t init(const struct kvmod_host *host)
{
	return host->register_engine(host->ctx, &ops);
}

KVMOD_MODULE("fake", "1.0", "Apache-2.0", "kvmod", "an engine without a model, for tests", 0, init, NULL);
