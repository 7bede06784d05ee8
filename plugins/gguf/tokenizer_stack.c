/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs libllama's tokenizer on a stack that is large enough: it splits a text into words
 * with std::regex, whose matcher calls itself for each character of a word.
 */
#include "engine.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * A character takes 330 bytes of stack in a library compiled as usual. This much is only
 * reserved: the memory used depends on the longest word.
 */
#define STACK_PER_CHARACTER 1024u
#define STACK_LEAST (1u << 20)
/* A text up to this length has room on any stack. */
#define SHORT_TEXT 256u
/* Takes some 340 MiB of stack. */
#define MAX_RUN (1u << 20)

struct job {
	const struct llama_vocab *vocab;
	const char *text;
	int32_t length, room, n;
	int32_t *tokens;
	bool special;
};

static void *run(void *arg)
{
	struct job *job = arg;

	job->n = llama_tokenize(job->vocab, job->text, job->length, job->tokens, job->room, false,
				job->special);
	return NULL;
}

/* Returns an error number, or 0. */
static int run_on(struct job *job, char *stack, size_t size)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int err = pthread_attr_init(&attributes);

	if (err)
		return err;
	err = pthread_attr_setstack(&attributes, stack, size);
	if (!err)
		err = pthread_create(&thread, &attributes, run, job);
	pthread_attr_destroy(&attributes);
	return err ? err : pthread_join(thread, NULL);
}

/* This pre-tokenizer treats words with single blanks between them as one word. */
static bool joins_words(const struct llama_model *model)
{
	char name[32] = "";

	llama_model_meta_val_str(model, "tokenizer.ggml.pre", name, sizeof(name));
	return !strcmp(name, "exaone-moe");
}

/*
 * Characters of the longest word: a run of characters other than blanks, the blanks after
 * it, and perhaps those before.
 */
static size_t longest_word(const struct gg_engine *engine, size_t length, uint32_t run)
{
	size_t most = 3 * (size_t)run;

	return most > length || joins_words(engine->text.model) ? length : most;
}

static int32_t run_deep(struct gg_engine *engine, struct job *job, size_t longest)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t size = (STACK_LEAST + longest * STACK_PER_CHARACTER + page - 1) / page * page;
	char *stack = mmap(NULL, size + page, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	int err = stack == MAP_FAILED ? errno : 0;

	if (!err && mprotect(stack, page, PROT_NONE))
		err = errno;
	if (!err)
		err = run_on(job, stack + page, size);
	if (stack != MAP_FAILED)
		munmap(stack, size + page);
	if (err)
		return gg_fail(engine, KVMOD_ENOMEM, "cannot get a stack of %zu MiB to tokenize %d bytes: %s",
			       size >> 20, job->length, strerror(err));
	return KVMOD_OK;
}

/*
 * The longest run of characters without a blank, or of blanks. A "/" after a blank counts as
 * a blank: some pre-tokenizers treat line breaks and "/" as the end of a word.
 */
static uint32_t longest_run(const char *text, size_t length)
{
	uint32_t n = 0, longest = 0;
	int before = -1;

	for (size_t i = 0; i < length; i++) {
		int blank = isspace((unsigned char)text[i]) || (text[i] == '/' && before == 1);

		if (((unsigned char)text[i] & 0xc0) == 0x80)
			continue; /* its character has been counted */
		n = blank == before ? n + 1 : 1;
		longest = n > longest ? n : longest;
		before = blank;
	}
	return longest;
}

int32_t gg_llama_tokenize(struct gg_engine *engine, const char *text, size_t length, bool special,
			 int32_t *tokens, size_t room, int32_t *n)
{
	struct job job = { engine->text.vocab, text, (int32_t)length, (int32_t)room, 0, tokens, special };
	int32_t code = KVMOD_OK;
	uint32_t longest;

	if (length <= SHORT_TEXT || llama_vocab_type(job.vocab) != LLAMA_VOCAB_TYPE_BPE) {
		run(&job);
	} else {
		longest = longest_run(text, length);
		if (longest > MAX_RUN)
			return gg_fail(engine, KVMOD_EINVAL,
				       "the text has a run of %u characters without a blank, or of blanks; expected at most %u",
				       longest, MAX_RUN);
		code = run_deep(engine, &job, longest_word(engine, length, longest));
	}
	*n = job.n;
	return code;
}
