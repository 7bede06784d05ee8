/* SPDX-License-Identifier: Apache-2.0 */
/* What policies need: checks it, and joins what several of them need. */
#include "core/run/request.h"

#define ALL_NEEDS (KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_COLSUM | KVMOD_NEED_Q_STATS | \
		   KVMOD_NEED_WO_NORM | KVMOD_NEED_ALL_LAYERS)

static uint32_t known_types(void)
{
	uint32_t types = 0;

	for (uint32_t type = 1; type < 32; type++)
		if (kvmod_row_bytes(type, 32) > 0)
			types |= KVMOD_TYPE_BIT(type);
	return types;
}

int kv_needs_check(const struct kvmod_needs *needs)
{
	double most = needs->rows.is_count ? MAX_POSITIONS : 1;

	/* NaN fails this test too. */
	if (!(needs->rows.value >= 0 && needs->rows.value <= most))
		return kv_fail(KVMOD_EINVAL, "needs() asks for %s of %g, expected 0 to %.0f",
			       needs->rows.is_count ? "a number of rows" : "a fraction of rows",
			       needs->rows.value, most);
	if (needs->min_rows > MAX_POSITIONS)
		return kv_fail(KVMOD_EINVAL, "needs() asks for min_rows of %u, expected at most %u",
			       needs->min_rows, MAX_POSITIONS);
	if (needs->what & ~ALL_NEEDS)
		return kv_fail(KVMOD_ENOTSUP, "needs() asks for 0x%x, of which this kvmod does not "
			       "know 0x%x", needs->what, needs->what & ~ALL_NEEDS);
	if (needs->types && !(needs->types & known_types()))
		return kv_fail(KVMOD_ENOTSUP, "needs() names no element type that this kvmod knows: 0x%x",
			       needs->types);
	return KVMOD_OK;
}

/* Both a fraction and a count of rows: the fraction in `rows`, the count in min_rows. */
static void add_rows(struct kvmod_needs *all, const struct kvmod_needs *more)
{
	uint32_t count = more->rows.is_count ? kvmod_needs_rows(more, UINT32_MAX) : more->min_rows;

	if (!more->rows.is_count && more->rows.value > all->rows.value)
		all->rows.value = more->rows.value;
	if (count > all->min_rows)
		all->min_rows = count;
}

int kv_needs_add(struct kvmod_needs *all, const struct kvmod_needs *more)
{
	if (all->what & more->what & KVMOD_NEED_Q_STATS && all->q_stats_skip != more->q_stats_skip)
		return kv_fail(KVMOD_ENOTSUP, "statistics of queries without the oldest %u tokens and without "
			       "the oldest %u cannot be collected together", all->q_stats_skip,
			       more->q_stats_skip);
	if (more->what & KVMOD_NEED_Q_STATS)
		all->q_stats_skip = more->q_stats_skip;
	all->what |= more->what;
	add_rows(all, more);
	if (more->decode_every)
		all->decode_every = 1;
	return KVMOD_OK;
}
