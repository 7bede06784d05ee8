/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening files whose names come from users. A FIFO or a device could block the
 * program, so only regular files are accepted, and opening one never blocks.
 * Inline, because modules do not link with the library.
 */
#ifndef KV_CORE_BASE_REGULAR_H
#define KV_CORE_BASE_REGULAR_H

#include <config.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* The null device stands for an empty file. */
static inline int kv_is_regular(const struct stat *st)
{
	return S_ISREG(st->st_mode) || (S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3));
}

/*
 * Opens a file for reading, without blocking, and describes it in *st. -1 on failure:
 * errno says why, and is 0 if the file exists but is not a regular file.
 */
static inline int kv_open_regular(const char *path, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), why;

	if (fd < 0) {
		/* A socket cannot be opened. */
		if (errno == ENXIO && !stat(path, st) && !kv_is_regular(st))
			errno = 0;
		return -1;
	}
	why = fstat(fd, st) ? errno : 0;
	if (!why && kv_is_regular(st))
		return fd;
	close(fd);
	errno = why;
	return -1;
}

/* Why kv_open_regular() failed: "No such file or directory", "a FIFO, ...". */
static inline const char *kv_open_regular_error(const struct stat *st, int why)
{
	if (why)
		return strerror(why);
	switch (st->st_mode & S_IFMT) {
	case S_IFDIR:
		return "a directory, expected a regular file";
	case S_IFIFO:
		return "a FIFO, expected a regular file";
	case S_IFSOCK:
		return "a socket, expected a regular file";
	default:
		return "a device, expected a regular file";
	}
}

#endif
