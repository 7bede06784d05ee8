/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts a configuration into use, after reading and checking all of it against what is
 * registered and what module files list.
 */
#include "core/modules/catalog.h"

static const char *find_near(const struct kv_config *config, struct kv_nearest *nearest)
{
	struct kv_catalog c;
	const char *kind = NULL;

	if (kv_catalog_open(&c, config->ctx, config) != KVMOD_OK)
		return NULL;
	for (enum kv_kind k = KV_POLICY; k <= KV_DEVICE; k++) {
		unsigned before = nearest->distance;

		kv_catalog_offer(&c, k, nearest);
		kind = nearest->distance < before ? kv_kind_name(k) : kind;
	}
	kv_catalog_close(&c);
	return kind;
}

int kv_config_load(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		   size_t n_overrides, struct kv_config **out)
{
	int err = kv_config_read(ctx, path, overrides, n_overrides, find_near, out);

	if (err)
		return err;
	err = kv_sections_check(ctx, *out);
	if (err)
		kv_config_free(*out);
	return err;
}

int kvmod_configure(struct kvmod_ctx *ctx, const char *path,
		    const char *const *overrides, size_t n_overrides)
{
	struct kv_config *config;
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_config_load(ctx, path, overrides, n_overrides, &config);
	if (err == KVMOD_OK)
		kv_config_install(ctx, config);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}
