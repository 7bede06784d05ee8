/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata of a module file, read from its section without running the file.
 * A file whose metadata is wrong is refused here.
 */
#include "core/modules/device.h"
#include "core/toolkit/toolkit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int kv_abi_check(uint32_t major, uint32_t minor)
{
	if (major != KVMOD_ABI_MAJOR)
		return kv_fail(KVMOD_EABI, "built for kvmod's ABI %u, this is ABI %u: rebuild it "
			       "against these headers", major, KVMOD_ABI_MAJOR);
	if (minor > KVMOD_ABI_MINOR)
		return kv_fail(KVMOD_EABI, "needs kvmod's ABI %u.%u, this is %u.%u: update kvmod",
			       major, minor, KVMOD_ABI_MAJOR, KVMOD_ABI_MINOR);
	return KVMOD_OK;
}

/* --- the section ------------------------------------------------------------------------------ */

/* Far more than any module has. A limit, because some facts are compared with each other. */
#define MAX_FACTS 4096

static int add_fact(struct kvmod_modinfo *info, char *text)
{
	char *equal = strchr(text, '=');

	for (const char *c = text; *c; c++)
		if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
			return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION
				       " section holds something other than text");
	for (size_t i = 0, n = strlen(text); i < n;) {
		int length = kv_utf8_length(text + i, n - i);

		if (length <= 0)
			return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section holds byte "
				       "0x%02x where UTF-8 was expected", (unsigned char)text[i]);
		i += (size_t)length;
	}
	if (!equal || equal == text)
		return kv_fail(KVMOD_EFORMAT, "`%.40s` in its " KVMOD_INFO_SECTION
			       " section is not key=value", text);
	if (info->n_facts == MAX_FACTS)
		return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section holds more than %d "
			       "strings, the limit", MAX_FACTS);
	*equal = '\0';
	info->facts[info->n_facts++] = (struct kv_fact){ text, equal + 1 };
	return KVMOD_OK;
}

/* By key; facts of one key keep the order of the section. */
static int by_key(const void *a_, const void *b_)
{
	const struct kv_fact *a = a_, *b = b_;
	int order = strcmp(a->key, b->key);

	return order ? order : (a->key > b->key) - (a->key < b->key);
}

/* Zero-terminated strings; the linker may put zeros between them. */
static int parse_facts(struct kvmod_modinfo *info, char *text, size_t size)
{
	size_t room = 0, n;
	int err = KVMOD_OK;

	for (size_t i = 0; i < size; i++)
		room += text[i] == '\0';
	if (room > MAX_FACTS)
		room = MAX_FACTS;
	info->facts = kv_arena_alloc(&info->arena, (room + 1) * sizeof(*info->facts));
	if (!info->facts)
		return KVMOD_ENOMEM;
	for (size_t i = 0; i < size && err == KVMOD_OK; i += n + 1) {
		n = strlen(text + i);
		if (n)
			err = add_fact(info, text + i);
	}
	qsort(info->facts, info->n_facts, sizeof(*info->facts), by_key);
	return err;
}

/* --- what the section must hold ------------------------------------------------------------------- */

/* Where the facts of a key begin, if there are any. */
static size_t first_fact(const struct kvmod_modinfo *info, const char *key)
{
	size_t low = 0, high = info->n_facts;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(info->facts[middle].key, key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const char *kvmod_modinfo_get(const struct kvmod_modinfo *info, const char *key, unsigned i)
{
	size_t k = first_fact(info, key) + i;

	return k < info->n_facts && strcmp(info->facts[k].key, key) == 0 ? info->facts[k].value : NULL;
}

/* The value of the fact at *i, if it is one of that key; NULL: there are no more. Steps on. */
static const char *next_fact(const struct kvmod_modinfo *info, const char *key, size_t *i)
{
	const struct kv_fact *f = &info->facts[*i];

	if (*i == info->n_facts || strcmp(f->key, key) != 0)
		return NULL;
	(*i)++;
	return f->value;
}

static bool has_fact(const struct kvmod_modinfo *info, const char *key, const char *name, size_t n)
{
	size_t i = first_fact(info, key);
	const char *value;

	while ((value = next_fact(info, key, &i)))
		if (kv_name_is(name, n, value))
			return true;
	return false;
}

bool kv_modinfo_says(const struct kvmod_modinfo *info, const char *kind, const char *name)
{
	return has_fact(info, kind, name, strlen(name));
}

static int check_abi_text(const char *text)
{
	unsigned major, minor;
	char end;

	if (sscanf(text, "%5u.%5u%c", &major, &minor, &end) != 2)
		return kv_fail(KVMOD_EFORMAT, "abi=%.40s in its " KVMOD_INFO_SECTION
			       " section: expected MAJOR.MINOR", text);
	return kv_abi_check(major, minor);
}

static int check_facts(const struct kvmod_modinfo *info)
{
	static const char *const needed[] = { "abi", "name", "version", "license" };

	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		const char *value = kvmod_modinfo_get(info, needed[i], 0);

		if (!value || !*value)
			return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section has no %s=: "
				       "give KVMOD_MODULE() one", needed[i]);
		if (kvmod_modinfo_get(info, needed[i], 1))
			return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section has %s= twice: "
				       "expected one KVMOD_MODULE() in a file", needed[i]);
	}
	if (!kv_name_valid(kvmod_modinfo_get(info, "name", 0)))
		return kv_fail(KVMOD_EFORMAT, "name=%.40s in its " KVMOD_INFO_SECTION " section: "
			       "expected letters, digits, - and _", kvmod_modinfo_get(info, "name", 0));
	return check_abi_text(kvmod_modinfo_get(info, "abi", 0));
}

/* --- parameters: "mine.sinks\tINT\t4\t0..1024\thelp" ------------------------------------------------ */

/* Cuts the text at its next tab and returns the part before the tab. */
static const char *part(char **rest)
{
	char *begin = *rest, *tab = strchr(begin, '\t');

	*rest = tab ? tab + 1 : begin + strlen(begin);
	if (tab)
		*tab = '\0';
	return begin;
}

/* Cuts up the copy of a param string; the fact refers to its parts. */
static bool parse_param(char *text, struct kv_param_fact *fact)
{
	char *rest = text;
	char *dot = strchr(text, '.');
	const char *type;

	if (!dot)
		return false;
	*dot = '\0';
	fact->owner = text;
	rest = dot + 1;
	fact->param.name = part(&rest);
	type = part(&rest);
	fact->param.type = kv_param_type(type, strlen(type));
	fact->param.def = part(&rest);
	fact->param.range = part(&rest);
	fact->param.help = rest;
	return kv_param_check(&fact->param) == KVMOD_OK;
}

/* By owner and name, for a binary search. */
static int by_owner(const void *a_, const void *b_)
{
	const struct kv_param_fact *a = a_, *b = b_;
	int order = kv_name_cmp(a->owner, b->owner);

	return order ? order : kv_name_cmp(a->param.name, b->param.name);
}

static int parse_params(struct kvmod_modinfo *info)
{
	const char *said;
	unsigned n = 0;

	while (kvmod_modinfo_get(info, "param", n))
		n++;
	info->params = kv_arena_alloc(&info->arena, (n + 1) * sizeof(*info->params));
	if (!info->params)
		return KVMOD_ENOMEM;
	for (; (said = kvmod_modinfo_get(info, "param", info->n_params)); info->n_params++) {
		char *copy = kv_arena_strdup(&info->arena, said);

		if (!copy)
			return KVMOD_ENOMEM;
		if (!parse_param(copy, &info->params[info->n_params]))
			return kv_fail(KVMOD_EFORMAT, "param=%.40s in its " KVMOD_INFO_SECTION
				       " section: use KVMOD_PARAMS()", said);
	}
	qsort(info->params, info->n_params, sizeof(*info->params), by_owner);
	return KVMOD_OK;
}

bool kv_modinfo_param(const struct kvmod_modinfo *info, const char *owner, unsigned i,
		      struct kvmod_param *param)
{
	size_t low = 0, high = info->n_params;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (kv_name_cmp(info->params[middle].owner, owner) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low + i >= info->n_params || !kv_name_eq(info->params[low + i].owner, owner))
		return false;
	*param = info->params[low + i].param;
	return true;
}

unsigned kv_modinfo_n_params(const struct kvmod_modinfo *info, const char *owner)
{
	struct kvmod_param param;
	unsigned n = 0;

	while (kv_modinfo_param(info, owner, n, &param))
		n++;
	return n;
}

const struct kvmod_param *kv_modinfo_find_param(const struct kvmod_modinfo *info,
						const char *owner, const char *name)
{
	const struct kv_param_fact wanted = { .owner = owner, .param = { .name = name } };
	const struct kv_param_fact *found = bsearch(&wanted, info->params, info->n_params,
						    sizeof(*info->params), by_owner);

	return found ? &found->param : NULL;
}

/* --- where a policy runs: "mine\tcpu npu" ----------------------------------------------------------- */

/* "on" facts, each the name of a policy, a tab and its devices: the length of that name. */
static size_t owner_length(const char *said)
{
	return strcspn(said, "\t");
}

const char *kv_modinfo_devices(const struct kvmod_modinfo *info, const char *policy)
{
	size_t i = first_fact(info, "on");
	const char *said;

	while ((said = next_fact(info, "on", &i)))
		if (kv_name_is(said, owner_length(said), policy))
			return said + owner_length(said) + 1;
	return KV_CPU;
}

static int check_devices_of_one(const struct kvmod_modinfo *info, const char *said)
{
	size_t n = owner_length(said);
	int shown = n < 40 ? (int)n : 40;

	if (n == 0 || said[n] == '\0')
		return kv_fail(KVMOD_EFORMAT, "on=%.40s in its " KVMOD_INFO_SECTION
			       " section: use KVMOD_RUNS_ON()", said);
	if (!has_fact(info, "policy", said, n))
		return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section says where a policy "
			       "`%.*s` runs, but lists no such policy: KVMOD_RUNS_ON() takes the name "
			       "of a policy of the same file", shown, said);
	if (!kv_devices_valid(said + n + 1))
		return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section says that the policy "
			       "`%.*s` runs on `%.40s`: expected names of devices with spaces between "
			       "them, or *", shown, said, said + n + 1);
	return KVMOD_OK;
}

static bool is_said_before(const struct kvmod_modinfo *info, const char *said)
{
	size_t i = first_fact(info, "on"), n = owner_length(said);
	const char *other;

	while ((other = next_fact(info, "on", &i)) != said)
		if (owner_length(other) == n && strncmp(other, said, n) == 0)
			return true;
	return false;
}

static int check_devices(const struct kvmod_modinfo *info)
{
	size_t i = first_fact(info, "on");
	const char *said;
	int err = KVMOD_OK;

	while (!err && (said = next_fact(info, "on", &i))) {
		err = check_devices_of_one(info, said);
		if (!err && is_said_before(info, said))
			err = kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section says twice where "
				      "the policy `%.*s` runs: expected one KVMOD_RUNS_ON()",
				      (int)owner_length(said), said);
	}
	return err;
}

/* --- extensions of the host: "kvmod.toolkit/1" ------------------------------------------------------ */

static int check_uses(const struct kvmod_modinfo *info)
{
	const char *name;

	for (unsigned i = 0; (name = kvmod_modinfo_get(info, "uses", i)); i++)
		if (!kv_extension(name))
			return kv_fail(KVMOD_ENOTSUP, "needs the extension `%.60s`, which this kvmod does not "
				       "offer (it offers %s): update kvmod", name, kv_extension_names());
	return KVMOD_OK;
}

int kv_facts_read(struct kvmod_modinfo *info, char *text, size_t size)
{
	int err = parse_facts(info, text, size);

	if (err == KVMOD_OK)
		err = check_facts(info);
	if (err == KVMOD_OK)
		err = check_devices(info);
	if (err == KVMOD_OK)
		err = check_uses(info);
	return err == KVMOD_OK ? parse_params(info) : err;
}

/* --- opening ------------------------------------------------------------------------------------------- */

static int read_info(const struct kv_config *config, struct kvmod_modinfo *info)
{
	int err;

	info->fd = open(info->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (info->fd < 0 || fstat(info->fd, &info->st) != 0)
		return kv_fail(errno == ENOENT ? KVMOD_ENOENT : errno == EACCES ? KVMOD_EPERM : KVMOD_EIO,
			       "cannot be read: %s", strerror(errno));
	err = kv_trust(config, info->path, &info->st);
	if (err == KVMOD_OK)
		err = kv_elf_read(info);
	if (err == KVMOD_OK)
		err = kv_needed_check(config, info);
	return err ? kv_elf_failed(err) : err;
}

int kv_modinfo_open(const struct kv_config *config, const char *path,
		    struct kvmod_modinfo **out)
{
	struct kvmod_modinfo *info = calloc(1, sizeof(*info));
	char real[PATH_MAX];
	int err = KVMOD_OK;

	if (!info)
		return kv_no_memory();
	info->fd = -1;
	if (!realpath(path, real))
		err = errno == ENOMEM ? kv_no_memory() :
		      kv_fail(errno == ENOENT ? KVMOD_ENOENT : KVMOD_EIO, "%s", strerror(errno));
	if (err == KVMOD_OK) {
		info->path = kv_arena_strdup(&info->arena, real);
		err = info->path ? read_info(config, info) : KVMOD_ENOMEM;
	}
	if (err) {
		kvmod_modinfo_free(info);
		return kv_fail_in(err, "%s", path);
	}
	*out = info;
	return KVMOD_OK;
}

int kvmod_modinfo_read(struct kvmod_ctx *ctx, const char *path, struct kvmod_modinfo **info)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_modinfo_open(ctx->config, path, info);
	pthread_mutex_unlock(&ctx->lock);
	if (err == KVMOD_OK) {
		close((*info)->fd);
		(*info)->fd = -1;
	}
	return err;
}

void kvmod_modinfo_free(struct kvmod_modinfo *info)
{
	if (!info)
		return;
	if (info->fd >= 0)
		close(info->fd);
	kv_arena_free(&info->arena);
	free(info);
}

const char *kvmod_modinfo_path(const struct kvmod_modinfo *info)
{
	return info->path;
}
