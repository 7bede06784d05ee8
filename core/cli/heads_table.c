/* SPDX-License-Identifier: Apache-2.0 */
/* Writes what `kvmod heads` has measured: a head table for the policy duo, or JSON. */
#include "core/cli/heads.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- as text ------------------------------------------------------------------------- */

static int add(struct cli_text *text, const char *format, ...) CLI_PRINTF(2, 3);
static int add(struct cli_text *text, const char *format, ...)
{
	char piece[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(piece, sizeof(piece), format, args);
	va_end(args);
	return cli_text_add(text, piece, strlen(piece)) ? cli_error("out of memory") : CLI_OK;
}

static const char *architecture(const struct kvmod_model *model)
{
	return model->architecture ? model->architecture : "";
}

static int add_head(const struct cli_heads_measured *m, struct cli_text *text)
{
	int err = add(text, "kvmod-heads 1\n"
		      "# The head table of a model, for the policy duo: see kvmod-policies(7).\n"
		      "# Measured by kvmod %s on %llu text%s, %llu tokens in all, of which %llu are "
		      "compared.\n",
		      kvmod_version(), (unsigned long long)m->n_texts, m->n_texts == 1 ? "" : "s",
		      (unsigned long long)m->n_tokens, (unsigned long long)m->n_rows);

	for (int i = 0; i < CLI_HEADS_LOSSES && !err; i++)
		err = add(text, "# With retrieval = %.2f a prediction loses %.4f nats.\n",
			  m->losses[i].retrieval, m->losses[i].nats);
	if (!err)
		err = add(text, "model = %s\narchitecture = %s\nlayers = %u\nkv_heads = %u\n\n"
			  "# The loss in nats if this KV head alone keeps only %llu sinks and %llu recent "
			  "positions\n",
			  m->model->name, architecture(m->model), m->model->n_layers,
			  m->model->n_kv_heads, (unsigned long long)m->sinks,
			  (unsigned long long)m->recent);
	return err;
}

static int add_layer(const struct cli_heads_measured *m, uint32_t layer, struct cli_text *text)
{
	const double *scores = m->scores + (size_t)layer * m->model->n_kv_heads;
	int err = add(text, "%u:", layer);

	for (uint32_t g = 0; g < m->model->n_kv_heads && !err; g++)
		err = isnan(scores[g]) ? add(text, " -") : add(text, " %.4g", scores[g]);
	return err ? err : add(text, "\n");
}

static int add_table(const struct cli_heads_measured *m, struct cli_text *text)
{
	int err = add_head(m, text);

	for (uint32_t layer = 0; layer < m->model->n_layers && !err; layer++)
		err = add_layer(m, layer, text);
	return err;
}

/* --- into a file ----------------------------------------------------------------------- */

/* The file that the path leads to, in a buffer to be freed; it need not exist. */
static int find_target(const char *path, char **target)
{
	struct stat st;

	*target = realpath(path, NULL);
	if (!*target && errno != ENOENT)
		return cli_error("%s: %s", path, strerror(errno));
	if (!*target) {
		*target = cli_strdup(path);
		return CLI_OK;
	}
	if (!stat(*target, &st) && S_ISREG(st.st_mode))
		return CLI_OK;
	free(*target);
	return cli_error("%s: %s, expected a regular file", path,
			 S_ISDIR(st.st_mode) ? "a directory" : "a device");
}

int cli_heads_check_output(const char *path)
{
	char *target;
	int err = find_target(path, &target);

	if (err)
		return err;
	if (access(dirname(target), W_OK | X_OK))
		err = cli_error("%s: %s", path, strerror(errno));
	free(target);
	return err;
}

static mode_t mode_for(const char *target)
{
	mode_t mask = umask(0);
	struct stat st;

	umask(mask);
	return stat(target, &st) ? 0666 & ~mask : st.st_mode & 07777;
}

static bool write_all(int fd, const struct cli_text *text)
{
	size_t done = 0;
	ssize_t n = 0;

	while (done < text->n && (n = write(fd, text->bytes + done, text->n - done)) > 0)
		done += (size_t)n;
	return done == text->n;
}

/* A second file takes the first one's place only when it is complete. */
static int replace(const char *path, const char *target, const struct cli_text *text)
{
	char *name;
	int fd, err = CLI_OK;

	if (asprintf(&name, "%s.XXXXXX", target) < 0)
		return cli_error("out of memory");
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0 || fchmod(fd, mode_for(target)) || !write_all(fd, text) || fsync(fd) ||
	    rename(name, target)) {
		err = cli_error("%s: %s", path, strerror(errno));
		if (fd >= 0)
			unlink(name);
	}
	if (fd >= 0)
		close(fd);
	free(name);
	return err;
}

static int write_file(const char *path, const struct cli_text *text)
{
	char *target;
	int err = find_target(path, &target);

	if (err)
		return err;
	err = replace(path, target, text);
	free(target);
	return err;
}

int cli_heads_write(const struct cli_heads_measured *m, const char *path)
{
	struct cli_text text = { 0 };
	int err = add_table(m, &text);

	if (!err && path)
		err = write_file(path, &text);
	else if (!err)
		fwrite(text.bytes, 1, text.n, stdout);
	cli_text_free(&text);
	return err;
}

/* --- for programs ------------------------------------------------------------------------ */

static json_t *scores_json(const struct cli_heads_measured *m)
{
	json_t *layers = json_array();

	for (uint32_t l = 0; l < m->model->n_layers; l++) {
		json_t *heads = json_array();

		for (uint32_t g = 0; g < m->model->n_kv_heads; g++) {
			double score = m->scores[(size_t)l * m->model->n_kv_heads + g];

			json_array_append_new(heads, isnan(score) ? json_null() : json_real(score));
		}
		json_array_append_new(layers, heads);
	}
	return layers;
}

static json_t *losses_json(const struct cli_heads_measured *m)
{
	json_t *losses = json_array();

	for (int i = 0; i < CLI_HEADS_LOSSES; i++)
		json_array_append_new(losses, json_pack("{s:f, s:f}",
							"retrieval", m->losses[i].retrieval,
							"loss", m->losses[i].nats));
	return losses;
}

int cli_heads_print_json(const struct cli_heads_measured *m)
{
	return cli_print_json(json_pack(
		"{s:o, s:o, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o}",
		"model", cli_json_text(m->model->name),
		"architecture", cli_json_text(architecture(m->model)),
		"layers", (int)m->model->n_layers, "kv_heads", (int)m->model->n_kv_heads,
		"texts", (json_int_t)m->n_texts, "tokens", (json_int_t)m->n_tokens,
		"rows", (json_int_t)m->n_rows, "sinks", (json_int_t)m->sinks,
		"recent", (json_int_t)m->recent, "seconds", m->seconds,
		"losses", losses_json(m), "scores", scores_json(m)));
}
