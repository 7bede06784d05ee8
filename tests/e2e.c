/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the prompts and expected decisions of golden/e2e-*.jsonl. */
#include "tests/e2e.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *load(const char *path, size_t n)
{
	FILE *file = fopen(path, "r");
	json_t *all = json_array(), *one;
	json_error_t error;

	ck_assert_ptr_nonnull(file);
	while ((one = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error)))
		json_array_append_new(all, one);
	ck_assert_int_ne(feof(file), 0);
	fclose(file);
	ck_assert_uint_eq(json_array_size(all), n);
	return all;
}

json_t *e2e_load(void)
{
	return load(KVMOD_SRCDIR "/tests/golden/e2e-smollm2.jsonl", 12);
}

json_t *e2e_load_kvzip(void)
{
	return load(KVMOD_SRCDIR "/tests/golden/e2e-kvzip-smollm2.jsonl", 6);
}

int32_t *e2e_ints(const json_t *prompt, const char *key, size_t *n)
{
	json_t *list = json_object_get(prompt, key);
	int32_t *numbers = calloc(json_array_size(list) + 1, sizeof(*numbers));

	*n = json_array_size(list);
	ck_assert_uint_gt(*n, 0);
	for (size_t i = 0; i < *n; i++)
		numbers[i] = (int32_t)json_integer_value(json_array_get(list, i));
	return numbers;
}

const char *e2e_string(const json_t *prompt, const char *key)
{
	const char *text = json_string_value(json_object_get(prompt, key));

	ck_assert_ptr_nonnull(text);
	return text;
}

double e2e_number(const json_t *object, const char *key)
{
	json_t *number = json_object_get(object, key);

	ck_assert(json_is_number(number));
	return json_number_value(number);
}
