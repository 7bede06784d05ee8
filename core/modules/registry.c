/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is registered: policies, engines, devices. A table is copied at full
 * size, so that the rest of the core need not ask what its writer knew, and is
 * checked once, here.
 */
#include "core/modules/device.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

/* Bigger than any instance that holds no cache; catches a size that is garbage. */
#define MAX_INSTANCE (16u << 20)
/* Of one table: each is compared with the others. */
#define MAX_PARAMS 1024u

/* What all ops tables have, in whichever order. */
struct common {
	uint32_t size, devices, instance_size, n_params, param_stride;
	const char *name, *description;
	const struct kvmod_param *params;
	const char *missing;		/* a call that it must have and has not, or NULL */
};

#define COMMON(o) \
	.size = (o)->size, .instance_size = (o)->instance_size, .n_params = (o)->n_params, \
	.param_stride = (o)->param_stride, .name = (o)->name, \
	.description = (o)->description, .params = (o)->params

/* A call of a table, for first_missing(). */
#define CALL(o, call) { #call, (o)->call }

struct call {
	const char *name;
	bool there;
};

static const char *first_missing(const struct call *calls, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!calls[i].there)
			return calls[i].name;
	return NULL;
}

static struct common policy_common(const struct kvmod_policy_ops *o)
{
	return (struct common){
		COMMON(o), .devices = o->devices, .missing = o->compress ? NULL : "compress",
	};
}

static struct common engine_common(const struct kvmod_engine_ops *o)
{
	const struct call calls[] = {
		CALL(o, open), CALL(o, close), CALL(o, model), CALL(o, tokenize),
		CALL(o, detokenize), CALL(o, chat), CALL(o, seq_open), CALL(o, seq_close),
		CALL(o, seq_fork), CALL(o, seq_truncate), CALL(o, seq_length),
		CALL(o, prompt_begin), CALL(o, step), CALL(o, cancel), CALL(o, request),
		CALL(o, apply), CALL(o, bytes),
	};

	return (struct common){
		COMMON(o), .devices = ~0u,
		.missing = first_missing(calls, sizeof(calls) / sizeof(*calls)),
	};
}

static struct common device_common(const struct kvmod_device_ops *o)
{
	const struct call calls[] = {
		CALL(o, open), CALL(o, close), CALL(o, alloc), CALL(o, free), CALL(o, to_host),
		CALL(o, from_host), CALL(o, synchronize), CALL(o, gather),
	};

	return (struct common){
		COMMON(o), .devices = o->on,
		.missing = first_missing(calls, sizeof(calls) / sizeof(*calls)),
	};
}

static struct common common_of(enum kv_kind kind, const void *ops)
{
	switch (kind) {
	case KV_POLICY:
		return policy_common(ops);
	case KV_ENGINE:
		return engine_common(ops);
	case KV_DEVICE:
		return device_common(ops);
	}
	return (struct common){ 0 };
}

static const struct {
	const char *name;
	uint32_t size;			/* of the table as we know it */
	uint32_t least;			/* as the first ABI had it */
} kinds[] = {
	[KV_POLICY] = { "policy", sizeof(struct kvmod_policy_ops),
			offsetof(struct kvmod_policy_ops, compress) + sizeof(void *) },
	[KV_ENGINE] = { "engine", sizeof(struct kvmod_engine_ops),
			offsetof(struct kvmod_engine_ops, bytes) + sizeof(void *) },
	[KV_DEVICE] = { "device", sizeof(struct kvmod_device_ops),
			offsetof(struct kvmod_device_ops, gather) + sizeof(void *) },
};

const struct kvmod_param *kv_provider_params(const struct kv_provider *provider, uint32_t *n)
{
	struct common c = common_of(provider->kind, provider->ops);

	*n = c.n_params;
	return c.params;
}

bool kv_provider_param(const struct kv_provider *provider, uint32_t i, struct kvmod_param *param)
{
	struct common c = common_of(provider->kind, provider->ops);

	if (i >= c.n_params)
		return false;
	*param = c.params[i];
	return true;
}

/* --- is the table right? ------------------------------------------------------------- */

static int check_param(const struct common *c, const struct kvmod_param *p)
{
	size_t size = kv_param_size(p->type);
	struct kv_pile pile = { 0 };
	max_align_t field[2];
	int err = kv_param_check(p);

	if (err)
		return err;
	if (p->offset < sizeof(struct kvmod_instance) || p->offset > c->instance_size ||
	    size > c->instance_size - p->offset || p->offset % kv_param_align(p->type) != 0)
		return kv_fail(KVMOD_EINVAL, "parameter `%s` lies outside its instance", p->name);
	err = kv_param_parse(p, p->def, NULL, &pile, field);
	kv_pile_free(&pile);
	return err ? kv_fail_in(err, "the default of `%s`, \"%s\"", p->name, p->def) : err;
}

static int check_params(const struct common *c)
{
	int err = KVMOD_OK;

	for (uint32_t i = 0; i < c->n_params && err == KVMOD_OK; i++) {
		err = check_param(c, &c->params[i]);
		for (uint32_t j = 0; j < i && err == KVMOD_OK; j++)
			if (kv_name_eq(c->params[i].name, c->params[j].name))
				err = kv_fail(KVMOD_EEXIST, "parameter `%s` is there twice",
					      c->params[i].name);
	}
	return err;
}

static int check_table(const struct common *c)
{
	if (!c->name || !kv_name_valid(c->name))
		return kv_fail(KVMOD_EINVAL, "it has no valid name");
	if (c->instance_size < sizeof(struct kvmod_instance) || c->instance_size > MAX_INSTANCE)
		return kv_fail(KVMOD_EINVAL,
			       "its instance_size is %u: expected %zu (struct kvmod_instance) to %u",
			       c->instance_size, sizeof(struct kvmod_instance), MAX_INSTANCE);
	if (c->devices == 0)
		return kv_fail(KVMOD_EINVAL, "it runs on no device: expected KVMOD_ON_...");
	if (c->missing)
		return kv_fail(KVMOD_EINVAL, "its call %s() is NULL, which it must have",
			       c->missing);
	return check_params(c);
}

/* `kvmod info` must have told the truth. */
static int check_section(const struct kvmod_modinfo *info, const char *kind, const struct common *c)
{
	if (!kv_modinfo_says(info, kind, c->name))
		return kv_fail(KVMOD_EFORMAT, "the file's " KVMOD_INFO_SECTION
			       " section does not name it: use KVMOD_PARAMS or KVMOD_NO_PARAMS");
	if (strcmp(kind, kinds[KV_POLICY].name) == 0 &&
	    kv_modinfo_on(info, c->name) != (c->devices & kv_devices_known()))
		return kv_fail(KVMOD_EFORMAT, "it runs on other devices than the file's "
			       KVMOD_INFO_SECTION " section says: use KVMOD_RUNS_ON");
	for (uint32_t i = 0; i < c->n_params; i++) {
		const struct kvmod_param *p = &c->params[i];
		const struct kvmod_param *said = kv_modinfo_find_param(info, c->name, p->name);

		if (!said || said->type != p->type || strcmp(said->def, p->def) != 0 ||
		    strcmp(said->range, p->range) != 0)
			return kv_fail(KVMOD_EFORMAT, "its parameter `%s` is not what the file's "
				       KVMOD_INFO_SECTION " section says: use KVMOD_PARAMS", p->name);
	}
	return KVMOD_OK;
}

static int check_duplicate(const struct kvmod_ctx *ctx, enum kv_kind kind, const struct common *c)
{
	/* Policies of one name may run on different devices; all else has its name alone. */
	const struct kv_provider *other = kv_provider_find(ctx, kind, c->name,
							   kind == KV_POLICY ? c->devices : 0);

	if (!other)
		return KVMOD_OK;
	return kv_fail(KVMOD_EEXIST, "that name is taken, by %s",
		       other->module ? other->module->desc.name : "libkvmod itself");
}

/* --- copies ------------------------------------------------------------------------------- */

static int copy_params(struct kvmod_param **out, const struct common *c)
{
	struct kvmod_param *params;
	size_t n = c->param_stride < sizeof(*params) ? c->param_stride : sizeof(*params);

	*out = NULL;
	if (c->n_params == 0)
		return KVMOD_OK;
	if (c->n_params > MAX_PARAMS)
		return kv_fail(KVMOD_EINVAL, "it has %u parameters: %u at most", c->n_params, MAX_PARAMS);
	if (!c->params || c->param_stride < offsetof(struct kvmod_param, help) + sizeof(void *) ||
	    c->n_params > MAX_INSTANCE / c->param_stride)
		return kv_fail(KVMOD_EINVAL, "%u parameters %u bytes apart make no table",
			       c->n_params, c->param_stride);
	params = calloc(c->n_params, sizeof(*params));
	if (!params)
		return kv_no_memory();
	for (uint32_t i = 0; i < c->n_params; i++) {
		memcpy(&params[i], (const char *)c->params + (size_t)i * c->param_stride, n);
		params[i].def = params[i].def ? params[i].def : "";
		params[i].range = params[i].range ? params[i].range : "";
		params[i].help = params[i].help ? params[i].help : "";
	}
	*out = params;
	return KVMOD_OK;
}

/* Where a copied table's params and stride are. */
static void put_params(enum kv_kind kind, void *ops, const struct kvmod_param *params)
{
	switch (kind) {
	case KV_POLICY:
		((struct kvmod_policy_ops *)ops)->params = params;
		((struct kvmod_policy_ops *)ops)->param_stride = sizeof(*params);
		break;
	case KV_ENGINE:
		((struct kvmod_engine_ops *)ops)->params = params;
		((struct kvmod_engine_ops *)ops)->param_stride = sizeof(*params);
		break;
	case KV_DEVICE:
		((struct kvmod_device_ops *)ops)->params = params;
		((struct kvmod_device_ops *)ops)->param_stride = sizeof(*params);
		break;
	}
}

static void free_provider(struct kv_provider *p)
{
	free(p->params);
	free(p->table);
	free(p);
}

/* NULL: *err says why. */
static struct kv_provider *new_provider(struct kv_module *module, enum kv_kind kind,
					const void *ops, uint32_t size, int *err)
{
	struct kv_provider *p = calloc(1, sizeof(*p));
	void *table = calloc(1, kinds[kind].size);
	struct common c;

	if (!p || !table) {
		free(p);
		free(table);
		*err = kv_no_memory();
		return NULL;
	}
	memcpy(table, ops, size < kinds[kind].size ? size : kinds[kind].size);
	c = common_of(kind, table);
	p->kind = kind;
	p->module = module;
	p->ops = p->table = table;
	p->name = c.name;
	p->on = c.devices;
	*err = copy_params(&p->params, &c);
	if (*err) {
		free_provider(p);
		return NULL;
	}
	put_params(kind, table, p->params);
	return p;
}

/* --- the list --------------------------------------------------------------------------------- */

static int check_provider(const struct kvmod_ctx *ctx, const struct kv_provider *p)
{
	struct common c = common_of(p->kind, p->ops);
	int err = check_table(&c);

	if (err == KVMOD_OK)
		err = check_duplicate(ctx, p->kind, &c);
	if (err == KVMOD_OK && p->module && p->module->info)
		err = check_section(p->module->info, kinds[p->kind].name, &c);
	if (err)
		kv_fail_in(err, "%s `%s`", kinds[p->kind].name, c.name ? c.name : "");
	return err;
}

static int by_name(const void *a_, const void *b_)
{
	const struct kv_provider *a = a_, *b = b_;

	return a->kind != b->kind ? (a->kind < b->kind ? -1 : 1) : kv_name_cmp(a->name, b->name);
}

static int append(struct kvmod_ctx *ctx, struct kv_provider *provider)
{
	struct kv_provider **first = tsearch(provider, &ctx->provider_names, by_name);
	struct kv_provider **link;

	if (!first)
		return kv_no_memory();
	/* No more of them than there are devices. */
	for (link = first; *link && *link != provider; link = &(*link)->namesake)
		;
	*link = provider;
	if (!ctx->providers)
		ctx->providers_end = &ctx->providers;
	*ctx->providers_end = provider;
	ctx->providers_end = &provider->next;
	return KVMOD_OK;
}

static void forget_name(struct kvmod_ctx *ctx, struct kv_provider *provider)
{
	struct kv_provider **first = tfind(provider, &ctx->provider_names, by_name);
	struct kv_provider **link = first;

	while (*link != provider)
		link = &(*link)->namesake;
	if (link == first && !provider->namesake)
		tdelete(provider, &ctx->provider_names, by_name);
	else
		*link = provider->namesake;
}

int kv_register(struct kvmod_ctx *ctx, struct kv_module *module, enum kv_kind kind,
		const void *ops)
{
	struct kv_provider *provider;
	uint32_t size;
	int err;

	if (!ops)
		return kv_fail(KVMOD_EINVAL, "a %s is registered as NULL", kinds[kind].name);
	memcpy(&size, ops, sizeof(size));
	if (size < kinds[kind].least)
		return kv_fail(KVMOD_EINVAL, "a %s's table says it has %u bytes: expected %u or more",
			       kinds[kind].name, size, kinds[kind].least);
	provider = new_provider(module, kind, ops, size, &err);
	if (!provider)
		return err;
	err = check_provider(ctx, provider);
	if (err == KVMOD_OK)
		err = append(ctx, provider);
	if (err)
		free_provider(provider);
	return err;
}

void kv_unregister(struct kvmod_ctx *ctx, const struct kv_module *module)
{
	struct kv_provider **link = &ctx->providers;

	while (*link) {
		struct kv_provider *p = *link;

		if (p->module != module) {
			link = &p->next;
			continue;
		}
		*link = p->next;
		forget_name(ctx, p);
		free_provider(p);
	}
	ctx->providers_end = link;
}

bool kv_registered_busy(const struct kvmod_ctx *ctx, const struct kv_module *module)
{
	for (const struct kv_provider *p = ctx->providers; p; p = p->next)
		if (p->module == module && p->refs > 0 && !kv_device_is_own(module, p))
			return true;
	return false;
}

struct kv_provider *kv_provider_find(const struct kvmod_ctx *ctx, enum kv_kind kind,
				     const char *name, uint32_t on)
{
	const struct kv_provider wanted = { .kind = kind, .name = name };
	struct kv_provider **first = tfind(&wanted, &ctx->provider_names, by_name);
	struct kv_provider *p = first ? *first : NULL;

	while (p && on && !(p->on & on))
		p = p->namesake;
	return p;
}

void kv_provider_put(struct kvmod_ctx *ctx, struct kv_provider *provider)
{
	pthread_mutex_lock(&ctx->lock);
	provider->refs--;
	pthread_mutex_unlock(&ctx->lock);
	kvmod_unref(ctx);
}
