/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose files may be loaded. To load a file is to do what its owner says, so the
 * owner must be root, the effective user, the owner of the running program, or
 * one whom [kvmod] allow_owner names; and nobody else may be able to put another
 * file in its place.
 *
 * A group that may write is a question of who is in it. A user's private group
 * (the same number as the user, as useradd makes them) is the user; what root
 * gave to a group on purpose, as Debian gave /usr/local to staff, root answers
 * for. Another group's file is refused.
 */
#include "core/parts.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool program_owner(uid_t *uid)
{
	struct stat st;

	if (stat("/proc/self/exe", &st) != 0)
		return false;
	*uid = st.st_uid;
	return true;
}

/* A name, or a number. */
static bool is_user(const char *text, size_t n, uid_t uid)
{
	char name[64], *end;
	const struct passwd *user;
	unsigned long number;

	while (n > 0 && *text == ' ') {
		text++;
		n--;
	}
	while (n > 0 && text[n - 1] == ' ')
		n--;
	if (n == 0 || n >= sizeof(name))
		return false;
	memcpy(name, text, n);
	name[n] = '\0';
	number = strtoul(name, &end, 10);
	if (*end == '\0')
		return number == uid;
	user = getpwnam(name);
	return user && user->pw_uid == uid;
}

/* "NAME, 1001" */
static bool allowed(const struct kv_config *config, uid_t uid)
{
	const char *list = config ? config->settings.allow_owner : NULL;

	while (list && *list) {
		size_t n = strcspn(list, ",");

		if (is_user(list, n, uid))
			return true;
		list += n + (list[n] == ',');
	}
	return false;
}

static bool trusted_owner(const struct kv_config *config, uid_t uid)
{
	uid_t owner;

	return uid == 0 || uid == geteuid() || (program_owner(&owner) && uid == owner) ||
	       allowed(config, uid);
}

static const char *user_name(uid_t uid, char *text, size_t room)
{
	const struct passwd *user = getpwuid(uid);

	snprintf(text, room, "%s%s%lu", user ? user->pw_name : "", user ? ", uid " : "uid ",
		 (unsigned long)uid);
	return text;
}

static bool private_group(const struct stat *st)
{
	return st->st_gid == st->st_uid;
}

/* `what` is "" or "its folder DIR: "; path is for the mend. */
static int refuse_owner(const char *what, const char *path, uid_t uid)
{
	char name[96];

	return kv_fail(KVMOD_EPERM, "%sbelongs to %s, not to root, you or the owner of this program: "
		       "chown %s, or name that user in [kvmod] allow_owner", what,
		       user_name(uid, name, sizeof(name)), path);
}

static int trust_file(const struct kv_config *config, const char *path, const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return kv_fail(KVMOD_EFORMAT, "not a regular file");
	if (!trusted_owner(config, st->st_uid))
		return refuse_owner("", path, st->st_uid);
	if (st->st_mode & S_IWOTH)
		return kv_fail(KVMOD_EPERM, "everybody may write it (mode %04o): chmod o-w %s",
			       st->st_mode & 07777, path);
	if (st->st_mode & S_IWGRP && !private_group(st))
		return kv_fail(KVMOD_EPERM, "group %lu may write it (mode %04o): chmod g-w %s",
			       (unsigned long)st->st_gid, st->st_mode & 07777, path);
	return KVMOD_OK;
}

/* In a sticky folder of root's, like /tmp, nobody can replace another's file. */
static int trust_folder(const struct kv_config *config, const char *dir)
{
	char what[PATH_MAX + 16];
	struct stat st;

	snprintf(what, sizeof(what), "its folder %s ", dir);
	if (stat(dir, &st) != 0)
		return kv_fail(KVMOD_EIO, "%s: %s", what, strerror(errno));
	if (!trusted_owner(config, st.st_uid))
		return refuse_owner(what, dir, st.st_uid);
	if (st.st_mode & S_ISVTX && st.st_uid == 0)
		return KVMOD_OK;
	if (st.st_mode & S_IWOTH)
		return kv_fail(KVMOD_EPERM, "everybody may write %s(mode %04o): chmod o-w %s",
			       what, st.st_mode & 07777, dir);
	if (st.st_mode & S_IWGRP && st.st_uid != 0 && !private_group(&st))
		return kv_fail(KVMOD_EPERM, "group %lu may write %s(mode %04o): chmod g-w %s",
			       (unsigned long)st.st_gid, what, st.st_mode & 07777, dir);
	return KVMOD_OK;
}

int kv_trust(const struct kv_config *config, const char *path, const struct stat *st)
{
	char dir[PATH_MAX];
	int err = trust_file(config, path, st);

	if (strlen(path) >= sizeof(dir))
		return kv_fail(KVMOD_ERANGE, "its path is too long");
	strcpy(dir, path);
	while (err == KVMOD_OK && strcmp(dir, "/") != 0) {
		char *slash = strrchr(dir, '/');

		slash[slash == dir] = '\0';
		err = trust_folder(config, dir);
	}
	return err;
}
