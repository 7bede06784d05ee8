/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV's parameters, and what follows from them alone, the same on every device. */
#ifndef KV_POLICIES_REFREEKV_PARAMS_H
#define KV_POLICIES_REFREEKV_PARAMS_H

#include <kvmod/toolkit.h>

enum { RANK_POSITION, RANK_ATTENTION };
enum { SCOPE_RANKED, SCOPE_ALL };

struct refreekv {
	struct kvmod_instance instance;
	double threshold;
	int64_t sinks, recent, window;
	struct kvmod_amount rows;
	struct kvmod_list whole_layers;
	int32_t rank, norm_scope;
};

#define REFREEKV_PARAMS(P, owner) \
	P(owner, struct refreekv, threshold, REAL, "0.01", "0..1", \
	  "share of the attention's norm that may be lost; 0 keeps everything") \
	P(owner, struct refreekv, sinks, INT, "4", "0..1024", \
	  "oldest positions, always kept") \
	P(owner, struct refreekv, recent, INT, "1", "1..", \
	  "newest positions, always kept") \
	P(owner, struct refreekv, rows, AMOUNT, "1", "1..", \
	  "newest queries whose attention makes the norm: a count, or a fraction of the prompt") \
	P(owner, struct refreekv, whole_layers, LIST, "2", "0..", \
	  "layers never cut: so many from the front, or a list such as 0,1,31") \
	P(owner, struct refreekv, rank, CHOICE, "position", "position|attention", \
	  "what is kept first: the newest, or what the last `window` queries attend to") \
	P(owner, struct refreekv, norm_scope, CHOICE, "ranked", "ranked|all", \
	  "are the sinks part of the norm? ranked: no, as in the code; all: yes, as in Eq. 3") \
	P(owner, struct refreekv, window, INT, "8", "1..4096", \
	  "rank = attention: newest positions, always kept, whose queries rank the others")

int32_t refreekv_open(void *self, const struct kvmod_model *model);
int32_t refreekv_needs(void *self, struct kvmod_needs *needs);

/* How many of the segment's newest rows make the norm (k of Eq. 2), and how many rank. */
uint32_t refreekv_norm_rows(const struct refreekv *self, const struct kvmod_segment *segment);
uint32_t refreekv_rank_rows(const struct refreekv *self, const struct kvmod_segment *segment);
/* How many of a segment's n newest positions are always kept. */
uint32_t refreekv_tail(const struct refreekv *self, uint32_t n);
/* Is the layer kept whole, whatever its attention? */
bool refreekv_leaves(const struct refreekv *self, const struct kvmod_segment *segment);
/* How many positions have a rank; 0: there is nothing to decide. */
uint32_t refreekv_ranked(const struct refreekv *self, const struct kvmod_segment *segment);
/* Sets the reason for which a layer is not decided; returns status. */
int32_t refreekv_say(const struct refreekv *self, int32_t status);

/* Makes the layer keep the sinks and the positions from `first` on. */
void refreekv_keep_from(const struct refreekv *self, struct kvmod_keep *keep, uint32_t first,
			uint32_t n);

#endif
