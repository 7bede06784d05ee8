/* SPDX-License-Identifier: Apache-2.0 */
/* Fills the parameters of a table from a section. */
#include "core/config/values.h"

#include <stddef.h>

static int fill_one(const struct kv_config *config, const char *kind, const char *name,
		    const struct kvmod_param *param, struct kv_arena *arena, void *field)
{
	const struct kv_entry *entry = kv_config_find(config, kind, name, param->name);
	int err;

	if (!entry) {
		err = kv_param_parse(param, param->def, NULL, arena, field);
		return err ? kv_fail_in(err, "the default of `%s`", param->name) : err;
	}
	err = kv_param_parse(param, entry->value, entry->source->dir, arena, field);
	return err ? kv_entry_fail(err, entry, "%s", kvmod_error()) : err;
}

int kv_params_fill(const struct kv_config *config, const char *kind, const char *name,
		   const struct kvmod_param *params, uint32_t n, struct kv_arena *arena, void *base)
{
	int err = KVMOD_OK;

	for (uint32_t i = 0; i < n && err == KVMOD_OK; i++)
		err = fill_one(config, kind, name, &params[i], arena,
			       (char *)base + params[i].offset);
	return err;
}

int kv_entry_check(const struct kv_entry *entry, const struct kvmod_param *param)
{
	struct kv_arena arena = { 0 };
	max_align_t field[2];		/* as big as the biggest */
	int err = kv_param_parse(param, entry->value, entry->source->dir, &arena, field);

	kv_arena_free(&arena);
	return err ? kv_entry_fail(err, entry, "%s", kvmod_error()) : err;
}
