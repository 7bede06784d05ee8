/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_check FILE [--only] PATH[:TYPE|=VALUE]... - is FILE one JSON value with
 * these in it? PATH is keys and indices with dots between. With --only its
 * keys must be the first parts of the paths and no others.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static const char *type_name(const json_t *value)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "object", [JSON_ARRAY] = "array", [JSON_STRING] = "string",
		[JSON_INTEGER] = "integer", [JSON_REAL] = "real", [JSON_TRUE] = "true",
		[JSON_FALSE] = "false", [JSON_NULL] = "null",
	};

	return names[json_typeof(value)];
}

static const json_t *find(const json_t *value, char *path)
{
	for (char *key = strtok(path, "."); key && value; key = strtok(NULL, "."))
		value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key)) :
					       json_object_get(value, key);
	return value;
}

static bool equals(const json_t *value, const char *text)
{
	char number[64];

	if (json_is_string(value))
		return !strcmp(json_string_value(value), text);
	if (json_is_integer(value))
		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
	else if (json_is_real(value))
		snprintf(number, sizeof(number), "%g", json_real_value(value));
	else
		snprintf(number, sizeof(number), "%s", type_name(value));
	return !strcmp(number, text);
}

static bool check(const json_t *root, const char *what)
{
	char *copy = strdup(what), *type, *expected = NULL;
	const json_t *value;
	bool good;

	if (!copy)
		abort();
	type = copy + strcspn(copy, ":=");
	if (*type == '=')
		expected = type + 1;
	if (*type)
		*type++ = '\0';
	value = find(root, copy);
	good = value && (expected ? equals(value, expected) : !*type || !strcmp(type_name(value), type));
	if (!good)
		fprintf(stderr, "%s: %s\n", what, value ? json_dumps(value, JSON_ENCODE_ANY) : "not there");
	free(copy);
	return good;
}

static bool is_listed(const char *key, int n, char **paths)
{
	size_t length = strlen(key);

	for (int i = 0; i < n; i++)
		if (!strncmp(paths[i], key, length) && strchr(".:=", paths[i][length]))
			return true;
	fprintf(stderr, "%s: not expected\n", key);
	return false;
}

int main(int argc, char **argv)
{
	json_error_t error;
	json_t *root = argc > 1 ? json_load_file(argv[1], JSON_REJECT_DUPLICATES, &error) : NULL;
	bool good = root, only = argc > 2 && !strcmp(argv[2], "--only");
	const char *key;
	json_t *value;

	if (!root) {
		fprintf(stderr, "%s: no JSON: %s\n", argv[1], argc > 1 ? error.text : "no file");
		return 1;
	}
	for (int i = only ? 3 : 2; i < argc; i++)
		good &= check(root, argv[i]);
	if (only)
		json_object_foreach(root, key, value)
			good &= is_listed(key, argc - 3, argv + 3);
	json_decref(root);
	return !good;
}
