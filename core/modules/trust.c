/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decides whose files may be loaded. Loading a file runs code of its owner, so the
 * owner must be root, the effective user, the owner of the running program, or a user
 * whom [kvmod] allow_owner names; and nobody else may be able to replace the file.
 *
 * A user's private group (the same number as the user, as useradd makes it) counts as
 * the user. A folder of root's that a group may write, as Debian's /usr/local is for
 * staff, is root's decision. A file that any other group may write is refused.
 */
#include "core/modules/modinfo.h"

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

static bool trusted_owner(const struct kv_config *config, uid_t uid)
{
	uid_t owner;

	return uid == 0 || uid == geteuid() || (program_owner(&owner) && uid == owner) ||
	       kv_owner_allowed(config, uid);
}

static const char *user_name(uid_t uid, char *text, size_t room)
{
	struct passwd entry, *user = NULL;
	char strings[1024];

	if (getpwuid_r(uid, &entry, strings, sizeof(strings), &user) != 0)
		user = NULL;
	snprintf(text, room, "%s%suid %lu", user ? user->pw_name : "", user ? ", " : "",
		 (unsigned long)uid);
	return text;
}

static bool private_group(const struct stat *st)
{
	return st->st_gid == st->st_uid;
}

/* `what` is "" or "its folder DIR "; path is what to chown. */
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

/* In a sticky folder of root's, such as /tmp, nobody can replace the file of another user. */
static int trust_folder(const struct kv_config *config, const char *dir, const char *whose)
{
	char what[PATH_MAX + 16];
	struct stat st;

	snprintf(what, sizeof(what), "%s folder %s ", whose, dir);
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
		err = trust_folder(config, dir, "its");
	}
	return err;
}

/* --- a path that the dynamic loader will follow --------------------------------------------- */

/* How far a path was followed: `at` contains no links, `rest` is still to be followed. */
struct walk {
	const struct kv_config *config;
	char at[PATH_MAX], rest[PATH_MAX];
	unsigned n_links;
};

/* Puts the target of a link in front of the rest. */
static int follow_link(struct walk *w, const char *link, const struct stat *st)
{
	char target[PATH_MAX], rest[PATH_MAX];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (!trusted_owner(w->config, st->st_uid))
		return refuse_owner("the link ", link, st->st_uid);
	if (n < 0)
		return kv_fail(KVMOD_EIO, "%s: %s", link, strerror(errno));
	target[n] = '\0';
	if (++w->n_links > 40 ||
	    snprintf(rest, sizeof(rest), "%s/%s", target, w->rest) >= (int)sizeof(rest))
		return kv_fail(KVMOD_ERANGE, "%s: too many links, or the path is too long", link);
	if (target[0] == '/')
		strcpy(w->at, "/");
	strcpy(w->rest, rest);
	return KVMOD_OK;
}

/* Takes the first part of the rest; false: nothing is left. */
static bool next_part(struct walk *w, char *part)
{
	char *begin = w->rest + strspn(w->rest, "/");
	size_t n = strcspn(begin, "/");

	memcpy(part, begin, n);
	part[n] = '\0';
	memmove(w->rest, begin + n, strlen(begin + n) + 1);
	return n > 0;
}

static void go_up(char *at)
{
	char *slash = strrchr(at, '/');

	slash[slash == at] = '\0';
}

/* Whoever may write the folder can create what is missing, even if the folder is sticky. */
static int trust_gap(const struct walk *w, const char *path)
{
	struct stat st;

	if (stat(w->at, &st) == 0 && st.st_mode & S_IWOTH)
		return kv_fail(KVMOD_EPERM, "%s does not exist, and everybody may create it", path);
	return KVMOD_OK;
}

int kv_trust_walk(const struct kv_config *config, const char *path, bool *there)
{
	struct walk w = { .config = config, .at = "/" };
	char part[PATH_MAX], next[PATH_MAX];
	struct stat st = { .st_mode = S_IFDIR };
	int err = KVMOD_OK;

	*there = true;
	if (snprintf(w.rest, sizeof(w.rest), "%s", path) >= (int)sizeof(w.rest))
		return kv_fail(KVMOD_ERANGE, "%s: the path is too long", path);
	while (err == KVMOD_OK && next_part(&w, part)) {
		err = trust_folder(config, w.at, "the");
		if (err || strcmp(part, ".") == 0)
			continue;
		if (strcmp(part, "..") == 0) {
			go_up(w.at);
			continue;
		}
		if (snprintf(next, sizeof(next), "%s/%s", w.at[1] ? w.at : "", part) >=
		    (int)sizeof(next))
			return kv_fail(KVMOD_ERANGE, "%s: the path is too long", path);
		if (lstat(next, &st) != 0) {
			*there = false;
			return trust_gap(&w, path);
		}
		if (S_ISLNK(st.st_mode))
			err = follow_link(&w, next, &st);
		else
			strcpy(w.at, next);
	}
	if (err)
		return err;
	if (stat(w.at, &st) != 0)
		return kv_fail(KVMOD_EIO, "%s: %s", path, strerror(errno));
	return S_ISDIR(st.st_mode) ? trust_folder(config, w.at, "the") :
				     trust_file(config, w.at, &st);
}
