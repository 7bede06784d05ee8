/* SPDX-License-Identifier: Apache-2.0 */
/* Chooses how many threads decode: as many as are fastest on a machine that others use too. */
#ifndef KV_PLUGINS_GGML_THREAD_TUNING_H
#define KV_PLUGINS_GGML_THREAD_TUNING_H

#include <stdbool.h>
#include <stdint.h>

/* Of passes that decode one token of each sequence. Times are in seconds. */
struct gg_tuning {
	int most;			/* threads in the pool; 0: the user chose the number */
	int now;			/* threads of the next pass */
	int before;			/* during a trial: the number to go back to; else 0 */
	uint32_t passes;		/* since the number last changed */
	uint32_t wait;			/* passes before the next trial */
	uint32_t n_tokens;		/* of a pass: times of other sizes cannot be compared */
	double usual, on_processor;	/* of a pass: its time; the part on a processor */
	double trial;			/* time of the trial's passes, without the first */
};

/* When a pass began: by the clock, and by this thread's time on a processor. */
struct gg_tuning_clock {
	double wall, thread;
};

void gg_tuning_start(struct gg_tuning *tuning, int most);
void gg_tuning_begin(struct gg_tuning_clock *clock);
/* A pass has succeeded; decoded: it ran one token of each sequence. */
void gg_tuning_end(struct gg_tuning *tuning, const struct gg_tuning_clock *begun, bool decoded);
/* Takes what gg_tuning_end() measured of a decoding pass, and chooses `now`. */
void gg_tuning_pass(struct gg_tuning *tuning, double seconds, double on_processor);
/*
 * The same of a prompt's pass, which runs on all threads: if other programs slow it down,
 * decoding begins with fewer.
 */
void gg_tuning_prefill(struct gg_tuning *tuning, double seconds, double on_processor);
/* The following passes have n_tokens each. */
void gg_tuning_batch(struct gg_tuning *tuning, uint32_t n_tokens);

#endif
