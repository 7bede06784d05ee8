/* SPDX-License-Identifier: Apache-2.0 */
/* On how many threads passes of single tokens run. */
#ifndef KVMOD_GGML_PACE_H
#define KVMOD_GGML_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* Of passes that are one token for each sequence. Times are in seconds. */
struct gg_pace {
	int most;			/* threads that there are; 0: it is not for us to choose */
	int now;			/* threads of the next pass */
	int before;			/* while another number is tried: what to go back to; else 0 */
	uint32_t passes;		/* since the number was another */
	uint32_t wait;			/* so many before the next trial */
	uint32_t n_tokens;		/* of a pass: times of others cannot be compared */
	double usual, on_processor;	/* a pass: how long it takes, how long this thread runs in it */
	double trial;			/* sum of the trial's passes, but for its first */
};
/* When a pass began: by the clock, and by this thread's time on a processor. */
struct gg_pace_clock {
	double wall, thread;
};

void gg_pace_start(struct gg_pace *pace, int most);
void gg_pace_begin(struct gg_pace_clock *clock);
/* A pass has ended well; decoded: it was one token for each sequence. */
void gg_pace_end(struct gg_pace *pace, const struct gg_pace_clock *begun, bool decoded);
/* What gg_pace_end() measured: chooses `now`. */
void gg_pace_pass(struct gg_pace *pace, double seconds, double on_processor);
/*
 * The same of a prompt's pass, which runs on all threads: if other programs hold it up,
 * decoding begins with fewer.
 */
void gg_pace_prefill(struct gg_pace *pace, double seconds, double on_processor);
/* The passes to come have so many tokens. */
void gg_pace_batch(struct gg_pace *pace, uint32_t n_tokens);

#endif
