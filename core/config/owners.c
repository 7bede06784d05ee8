/* SPDX-License-Identifier: Apache-2.0 */
/* [kvmod] allow_owner: users whose module files may be loaded, besides those of trust.c. */
#include "core/config/entries.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The user of a name or number. */
static bool find_user(const char *text, uid_t *uid)
{
	struct passwd entry, *user = NULL;
	char room[1024], *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text >= '0' && *text <= '9' && *end == '\0') {
		*uid = (uid_t)number;
		return number == *uid;
	}
	if (getpwnam_r(text, &entry, room, sizeof(room), &user) != 0 || !user)
		return false;
	*uid = user->pw_uid;
	return true;
}

/* The next part of "NAME, 1001", without blanks; false at the end. */
static bool next_user(const char **list, char *user, size_t room)
{
	const char *text = *list + strspn(*list, " ");
	size_t n = strcspn(text, ",");

	if (*text == '\0')
		return false;
	*list = text + n + (text[n] == ',');
	while (n > 0 && text[n - 1] == ' ')
		n--;
	snprintf(user, room, "%.*s", (int)n, text);
	return true;
}

bool kv_owner_allowed(const struct kv_config *config, uid_t uid)
{
	const char *list = config ? config->settings.allow_owner : "";
	char name[64];
	uid_t other;

	while (next_user(&list, name, sizeof(name)))
		if (find_user(name, &other) && other == uid)
			return true;
	return false;
}

int kv_owners_check(const struct kv_entry *entry)
{
	const char *list = entry->value;
	char name[64];
	uid_t uid;

	while (next_user(&list, name, sizeof(name)))
		if (!find_user(name, &uid))
			return kv_entry_fail(KVMOD_EINVAL, entry, "no user `%s`", name);
	return KVMOD_OK;
}
