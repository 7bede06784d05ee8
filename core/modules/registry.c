/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is registered: policies, engines, devices. A table is copied at full
 * size, so that the rest of the core need not ask which header its author had, and
 * is checked once, here: against bounds and against the section of its file, before
 * any memory is read by its counts.
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
	uint32_t size, instance_size, n_params;
	const char *name, *description, *devices;
	const struct kvmod_param *params;
	const char *missing;		/* the first required call that is NULL; or NULL */
};

#define COMMON(o) \
	.size = (o)->size, .instance_size = (o)->instance_size, .n_params = (o)->n_params, \
	.name = (o)->name, .description = (o)->description, .params = (o)->params

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
		COMMON(o), .devices = o->devices ? o->devices : KV_CPU,
		.missing = o->compress ? NULL : "compress",
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
		COMMON(o), .devices = KV_ANY_DEVICE,
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
		COMMON(o), .devices = KV_ANY_DEVICE,
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
	struct kv_arena arena = { 0 };
	max_align_t field[2];
	int err = kv_param_check(p);

	if (err)
		return err;
	if (p->offset < sizeof(struct kvmod_instance) || p->offset > c->instance_size ||
	    size > c->instance_size - p->offset || p->offset % kv_param_align(p->type) != 0)
		return kv_fail(KVMOD_EINVAL, "parameter `%s` lies outside the instance", p->name);
	err = kv_param_parse(p, p->def, NULL, &arena, field);
	kv_arena_free(&arena);
	return err ? kv_fail_in(err, "the default of `%s`, \"%s\"", p->name, p->def) : err;
}

static int check_params(const struct common *c)
{
	int err = KVMOD_OK;

	for (uint32_t i = 0; i < c->n_params && err == KVMOD_OK; i++) {
		err = check_param(c, &c->params[i]);
		for (uint32_t j = 0; j < i && err == KVMOD_OK; j++)
			if (kv_name_eq(c->params[i].name, c->params[j].name))
				err = kv_fail(KVMOD_EEXIST, "parameter `%s` is listed twice",
					      c->params[i].name);
	}
	return err;
}

static int check_table(const struct common *c)
{
	if (!c->name || !kv_name_valid(c->name))
		return kv_fail(KVMOD_EINVAL, "invalid name: expected letters, digits, - and _");
	if (c->instance_size < sizeof(struct kvmod_instance) || c->instance_size > MAX_INSTANCE)
		return kv_fail(KVMOD_EINVAL,
			       "instance_size is %u: expected %zu (struct kvmod_instance) to %u",
			       c->instance_size, sizeof(struct kvmod_instance), MAX_INSTANCE);
	if (!kv_devices_valid(c->devices))
		return kv_fail(KVMOD_EINVAL, "devices is `%s`: expected names of devices with spaces "
			       "between them, or *", c->devices);
	if (c->missing)
		return kv_fail(KVMOD_EINVAL, "%s() is NULL, but is required", c->missing);
	return KVMOD_OK;
}

/* Does the section list the name, the same devices, and as many parameters as the table? */
static int check_section(const struct kvmod_modinfo *info, enum kv_kind kind, const struct common *c)
{
	const char *said = kv_modinfo_devices(info, c->name);
	unsigned n = kv_modinfo_n_params(info, c->name);

	if (!kv_modinfo_says(info, kv_kind_name(kind), c->name))
		return kv_fail(KVMOD_EFORMAT, "the file's " KVMOD_INFO_SECTION
			       " section does not list it: use KVMOD_PARAMS or KVMOD_NO_PARAMS");
	if (kind == KV_POLICY && strcmp(said, c->devices) != 0)
		return kv_fail(KVMOD_EFORMAT, "its table says that it runs on `%s`, the file's "
			       KVMOD_INFO_SECTION " section says `%s`: use KVMOD_RUNS_ON with the "
			       "words of the table", c->devices, said);
	if (n != c->n_params)
		return kv_fail(KVMOD_EFORMAT, "its table has %u parameters, the file's "
			       KVMOD_INFO_SECTION " section %u: use KVMOD_PARAMS", c->n_params, n);
	return KVMOD_OK;
}

/* What `kvmod info` shows must be true. */
static int compare_params(const struct kvmod_modinfo *info, const struct common *c)
{
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

/* Policies of one name may run on different devices; all else has its name alone. */
static int check_duplicate(const struct kvmod_ctx *ctx, enum kv_kind kind, const struct common *c)
{
	const struct kv_provider *other = kv_provider_find(ctx, kind, c->name, NULL);

	while (other && !kv_devices_overlap(c->devices, other->devices))
		other = other->namesake;
	if (!other)
		return KVMOD_OK;
	return kv_fail(KVMOD_EEXIST, "the name is taken by %s",
		       other->module ? other->module->desc.name : "libkvmod itself");
}

/* --- copies ------------------------------------------------------------------------------- */

static int copy_params(struct kvmod_param **out, const struct common *c)
{
	struct kvmod_param *params;

	*out = NULL;
	if (c->n_params == 0)
		return KVMOD_OK;
	if (c->n_params > MAX_PARAMS)
		return kv_fail(KVMOD_EINVAL, "%u parameters: expected at most %u", c->n_params, MAX_PARAMS);
	if (!c->params)
		return kv_fail(KVMOD_EINVAL, "%u parameters, but no table of them", c->n_params);
	params = calloc(c->n_params, sizeof(*params));
	if (!params)
		return kv_no_memory();
	for (uint32_t i = 0; i < c->n_params; i++) {
		params[i] = c->params[i];
		params[i].def = params[i].def ? params[i].def : "";
		params[i].range = params[i].range ? params[i].range : "";
		params[i].help = params[i].help ? params[i].help : "";
	}
	*out = params;
	return KVMOD_OK;
}

/* Where a copied table's params are. */
static void put_params(enum kv_kind kind, void *ops, const struct kvmod_param *params)
{
	switch (kind) {
	case KV_POLICY:
		((struct kvmod_policy_ops *)ops)->params = params;
		break;
	case KV_ENGINE:
		((struct kvmod_engine_ops *)ops)->params = params;
		break;
	case KV_DEVICE:
		((struct kvmod_device_ops *)ops)->params = params;
		break;
	}
}

static void free_provider(struct kv_provider *p)
{
	free(p->params);
	free(p->table);
	free(p);
}

/* With a copy of the table, whose parameters are still the module's. NULL: no memory. */
static struct kv_provider *new_provider(struct kv_module *module, enum kv_kind kind,
					const void *ops, uint32_t size)
{
	struct kv_provider *p = calloc(1, sizeof(*p));
	void *table = calloc(1, kinds[kind].size);
	struct common c;

	if (!p || !table) {
		free(p);
		free(table);
		kv_no_memory();
		return NULL;
	}
	memcpy(table, ops, size < kinds[kind].size ? size : kinds[kind].size);
	c = common_of(kind, table);
	p->kind = kind;
	p->module = module;
	p->ops = p->table = table;
	p->name = c.name;
	p->devices = c.devices;
	return p;
}

static int take_params(struct kv_provider *p)
{
	struct common c = common_of(p->kind, p->table);
	int err = copy_params(&p->params, &c);

	if (err == KVMOD_OK)
		put_params(p->kind, p->table, p->params);
	return err;
}

/* --- the list --------------------------------------------------------------------------------- */

/* [kvmod] device = auto means another thing. */
static int check_device_name(const struct common *c)
{
	if (!kv_name_eq(c->name, "auto"))
		return KVMOD_OK;
	return kv_fail(KVMOD_EINVAL, "the name is reserved: `device = auto` lets kvmod choose a device");
}

static int check_params_of(struct kv_provider *p, const struct kvmod_modinfo *info)
{
	struct common c;
	int err = take_params(p);

	if (err)
		return err;
	c = common_of(p->kind, p->ops);
	err = check_params(&c);
	return err || !info ? err : compare_params(info, &c);
}

/* Reads the parameters only once their number is checked. A linked-in module has no section. */
static int check_provider(const struct kvmod_ctx *ctx, struct kv_provider *p)
{
	const struct kvmod_modinfo *info = p->module ? p->module->info : NULL;
	struct common c = common_of(p->kind, p->ops);
	int err = check_table(&c);

	if (err == KVMOD_OK && p->kind == KV_DEVICE)
		err = check_device_name(&c);
	if (err == KVMOD_OK)
		err = check_duplicate(ctx, p->kind, &c);
	if (err == KVMOD_OK && info)
		err = check_section(info, p->kind, &c);
	if (err == KVMOD_OK)
		err = check_params_of(p, info);
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
	/* There are no more of them than devices. */
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
		return kv_fail(KVMOD_EINVAL, "the table of a %s is NULL", kinds[kind].name);
	memcpy(&size, ops, sizeof(size));
	if (size < kinds[kind].least)
		return kv_fail(KVMOD_EINVAL, "the table of a %s has size %u: expected %u or more",
			       kinds[kind].name, size, kinds[kind].least);
	provider = new_provider(module, kind, ops, size);
	if (!provider)
		return KVMOD_ENOMEM;
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
				     const char *name, const char *device)
{
	const struct kv_provider wanted = { .kind = kind, .name = name };
	struct kv_provider **first = tfind(&wanted, &ctx->provider_names, by_name);
	struct kv_provider *p = first ? *first : NULL;

	while (p && !kv_devices_have(p->devices, device))
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
