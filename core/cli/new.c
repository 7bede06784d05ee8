/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod new: writes a policy to start from, outside kvmod's own tree. */
#include "core/cli/cli.h"
#include "core/cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONGEST_NAME 32

/* What a policy may start from: what its README sets, by way of example. */
static const struct kind {
	const char *name, *setting;
} kinds[] = {
	{ "scorer", "budget = 25%" },
	{ "spans", "budget = 25%" },
	{ "ops", "every = 4" },
};

/* Names in the template folder and in the new one; @KIND@ is the kind, @NAME@ the policy's name. */
static const struct {
	const char *from, *to;
} files[] = {
	{ "@KIND@.c", "@NAME@.c" },
	{ "Makefile.txt", "Makefile" },
	{ "@KIND@.vectors", "@NAME@.vectors" },
	{ "README.md", "README.md" },
};

struct job {
	const char *name, *dir;
	const struct kind *kind;
	char author[128];
	char *build;			/* the build tree that this runs from; "BUILD" if none */
	struct cli_text paths[CLI_COUNT(files)];
	size_t n_written;
};

static void find_author(struct job *job)
{
	const struct passwd *user = getpwuid(geteuid());
	const char *name = user && *user->pw_gecos ? user->pw_gecos : user ? user->pw_name : "";

	/* The name goes into a C string: take its plain part, up to gecos' first comma. */
	snprintf(job->author, sizeof(job->author), "%.*s", (int)strcspn(name, ",\"\\\n"), name);
	if (!*job->author)
		strcpy(job->author, "unknown");
}

/* Where kvmod is not installed, policies are built with the files of its build tree. */
static int find_build_tree(struct kvmod_ctx *ctx, struct job *job)
{
	static const char name[] = "/core/kvmod-uninstalled.pc";
	char *path;

	if (kvmod_data_path(ctx, name + 1, &path))
		return cli_error_kvmod();
	if (access(path, F_OK)) {
		free(path);
		path = strdup("BUILD");
	} else {
		path[strlen(path) - strlen(name)] = '\0';
	}
	job->build = path;
	return path ? CLI_OK : cli_error("out of memory");
}

/* Adds text with the words between @ replaced. */
static int expand(const struct job *job, const char *text, struct cli_text *out)
{
	const struct {
		const char *word, *value;
	} words[] = {
		{ "@NAME@", job->name }, { "@AUTHOR@", job->author }, { "@BUILD@", job->build },
		{ "@KIND@", job->kind->name }, { "@SETTING@", job->kind->setting }, { "@", "@" },
	};

	while (*text) {
		size_t n = strcspn(text, "@"), i = 0;

		if (cli_text_add(out, text, n))
			return cli_error("out of memory");
		text += n;
		while (*text && strncmp(text, words[i].word, strlen(words[i].word)))
			i++;
		if (!*text)
			break;
		if (cli_text_add(out, words[i].value, strlen(words[i].value)))
			return cli_error("out of memory");
		text += strlen(words[i].word);
	}
	return CLI_OK;
}

static int read_template(struct kvmod_ctx *ctx, const char *name, struct cli_text *text)
{
	char wanted[64], chunk[4096], *path;
	size_t n;
	FILE *f;
	int err;

	snprintf(wanted, sizeof(wanted), "template/%s", name);
	if (kvmod_data_path(ctx, wanted, &path))
		return cli_error_kvmod();
	f = fopen(path, "re");
	err = f ? CLI_OK : cli_error("%s: %s", path, strerror(errno));
	free(path);
	while (f && !err && (n = fread(chunk, 1, sizeof(chunk), f)) > 0)
		err = cli_text_add(text, chunk, n) ? cli_error("out of memory") : CLI_OK;
	if (f && ferror(f))
		err = cli_error("template %s: %s", name, strerror(errno));
	if (f)
		fclose(f);
	return err;
}

static int write_new(const char *path, const struct cli_text *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	if (fd < 0)
		return cli_error("%s: %s", path, strerror(errno));
	if (cli_write_all(fd, text->bytes, text->n) && !close(fd))
		return CLI_OK;
	cli_error("%s: %s", path, strerror(errno));
	unlink(path);
	return CLI_FAILED;
}

static int write_file(struct kvmod_ctx *ctx, struct job *job, size_t i)
{
	struct cli_text from = { 0 }, template = { 0 }, text = { 0 };
	int err = expand(job, files[i].from, &from);

	if (!err)
		err = read_template(ctx, from.bytes, &template);
	if (!err)
		err = expand(job, template.bytes, &text);
	if (!err)
		err = write_new(job->paths[i].bytes, &text);
	cli_text_free(&from);
	cli_text_free(&template);
	cli_text_free(&text);
	return err;
}

/* All or nothing: refuses to overwrite a file, and leaves none after a failure. */
static int write_files(struct kvmod_ctx *ctx, struct job *job)
{
	struct stat st;

	for (size_t i = 0; i < CLI_COUNT(files); i++) {
		if (cli_text_add(&job->paths[i], job->dir, strlen(job->dir)) ||
		    cli_text_add(&job->paths[i], "/", 1))
			return cli_error("out of memory");
		if (expand(job, files[i].to, &job->paths[i]))
			return CLI_FAILED;
		if (!lstat(job->paths[i].bytes, &st))
			return cli_error("%s already exists: nothing was written",
					 job->paths[i].bytes);
	}
	for (; job->n_written < CLI_COUNT(files); job->n_written++) {
		if (!write_file(ctx, job, job->n_written))
			continue;
		while (job->n_written-- > 0)
			unlink(job->paths[job->n_written].bytes);
		return CLI_FAILED;
	}
	return CLI_OK;
}

static int make(struct kvmod_ctx *ctx, struct job *job)
{
	bool made = !mkdir(job->dir, 0777);
	int err;

	if (!made && errno != EEXIST)
		return cli_error("%s: %s", job->dir, strerror(errno));
	err = write_files(ctx, job);
	if (err && made)
		rmdir(job->dir);
	for (size_t i = 0; i < CLI_COUNT(files) && !err; i++)
		printf("%s\n", cli_show(job->paths[i].bytes));
	for (size_t i = 0; i < CLI_COUNT(files); i++)
		cli_text_free(&job->paths[i]);
	return err;
}

/* The name becomes part of C identifiers. */
static void check_name(const struct cli_command *self, const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz";

	if (!*name || !strchr(letters, *name) || strlen(name) > LONGEST_NAME ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(name))
		cli_usage_error(self, "`%s`: expected a letter a-z, then a-z, 0-9 and _, "
				"at most %d characters in all", name, LONGEST_NAME);
	/* The loader passes over such files: in a build tree the library is one of them. */
	if (!strncmp(name, "libkvmod", 8))
		cli_usage_error(self, "`%s`: names that begin with libkvmod are reserved", name);
}

static const struct kind *find_kind(const struct cli_command *self, const char *name)
{
	for (size_t i = 0; i < CLI_COUNT(kinds); i++)
		if (!name || !strcmp(kinds[i].name, name))
			return &kinds[i];
	cli_usage_error(self, "--kind=%s: expected scorer, spans or ops", name);
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	struct job job = { 0 };
	const char *kind = NULL;
	const struct cli_option options[] = {
		{ "kind", 'k', CLI_STRING, &kind, "KIND", "scorer, spans or ops [scorer]" },
		{ "dir", 'd', CLI_STRING, &job.dir, "DIR", "the folder to write to, created if missing [./NAME]" },
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err;
	struct kvmod_ctx *ctx;

	if (argc - first != 1)
		cli_usage_error(self, "expected one NAME");
	job.name = argv[first];
	check_name(self, job.name);
	job.kind = find_kind(self, kind);
	job.dir = job.dir ? job.dir : job.name;
	find_author(&job);
	ctx = cli_context_to_look(&common);
	if (!ctx)
		return CLI_FAILED;
	err = cli_check_name_free(ctx, job.name);
	if (!err)
		err = find_build_tree(ctx, &job);
	if (!err)
		err = make(ctx, &job);
	free(job.build);
	kvmod_unref(ctx);
	return err;
}

const struct cli_command cli_new = {
	.name = "new",
	.run = run,
	.summary = "write a policy to start from: C file, Makefile and test",
	.operands = "NAME",
	.details =
"A scorer says what each position is worth, and the toolkit does the rest; `spans` writes\n"
"ranges of positions into the plan; `ops` has the calls of a policy, without the toolkit.\n"
"In the new folder `make` builds the policy with the flags that pkg-config gives for the\n"
"installed kvmod, and `make check` tests it. Its README.md has the command for a kvmod\n"
"that is not installed. Existing files are never overwritten, and names that are taken\n"
"are refused.\n",
	.takes = CLI_TAKES_CONFIG,
};
