/* SPDX-License-Identifier: Apache-2.0 */
/* Values of parameters: from text into the fields of a struct (values.c, fill.c). */
#ifndef KV_CORE_CONFIG_VALUES_H
#define KV_CORE_CONFIG_VALUES_H

#include "core/config/entries.h"

/* Parses text into the field of a parameter; arena owns what the field points to. */
int kv_param_parse(const struct kvmod_param *param, const char *text, const char *dir,
		   struct kv_arena *arena, void *field);
/* Are its name, type and range valid? */
int kv_param_check(const struct kvmod_param *param);
size_t kv_param_size(uint32_t type);	/* of the field; 0: no such type */
size_t kv_param_align(uint32_t type);
uint32_t kv_param_type(const char *name, size_t length);	/* 0: no such type */

/* Fills the fields of base from a section; a parameter that it does not set gets its default. */
int kv_params_fill(const struct kv_config *config, const char *kind, const char *name,
		   const struct kvmod_param *params, uint32_t n, struct kv_arena *arena, void *base);
/* Is the value of the entry valid for this parameter? */
int kv_entry_check(const struct kv_entry *entry, const struct kvmod_param *param);

#endif
