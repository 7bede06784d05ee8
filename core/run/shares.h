/* SPDX-License-Identifier: Apache-2.0 */
/* Which positions of a sequence are cached, as shares of KV heads. */
#ifndef KV_CORE_RUN_SHARES_H
#define KV_CORE_RUN_SHARES_H

#include <kvmod/kvmod.h>

/* Of the first n positions; shares[i] is 0 where no KV head of the request caches position i. */
void kv_shares_cached(const struct kvmod_request *r, double *shares, uint64_t n);
/* The same for a sequence of `length` positions that all heads cache. */
void kv_shares_whole(uint64_t length, double *shares, uint64_t n);

#endif
