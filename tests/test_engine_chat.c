/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversations by the chat templates of golden/chat_templates.jsonl, against what
 * Jinja makes of them (chat_templates.py).
 */
#include <config.h>

#include "tests/engine_host.h"
#include "plugins/gguf/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#define ROOM 8192
#define TEMPLATES KVMOD_SRCDIR "/tests/golden/chat_templates.jsonl"
#define SCRIPT KVMOD_SRCDIR "/tests/chat_templates.py"

/* The tokens of the default model that the templates' variables stand for. */
#define BOS "<|im_start|>"
#define EOS "<|im_end|>"

static struct gg_engine *engine;
static int32_t tokens[ROOM];
static size_t n_tokens;

static void set_up(void)
{
	engine = test_engine(TEST_MODEL, GGML_TYPE_F16);
}

static void tear_down(void)
{
	test_engine_close(engine);
}

/* --- files of JSON lines ------------------------------------------------------------- */

static json_t *read_lines(FILE *f)
{
	json_t *all = json_array(), *line;
	json_error_t error;

	ck_assert_ptr_nonnull(f);
	while ((line = json_loadf(f, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error)))
		json_array_append_new(all, line);
	ck_assert_msg(feof(f), "%s", error.text);
	ck_assert_uint_gt(json_array_size(all), 0);
	return all;
}

static json_t *read_templates(void)
{
	FILE *f = fopen(TEMPLATES, "re");
	json_t *all = read_lines(f);

	fclose(f);
	return all;
}

static const char *string(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	ck_assert_msg(text, "no \"%s\"", key);
	return text;
}

/* --- a conversation ------------------------------------------------------------------ */

static int32_t chat(const json_t *talk)
{
	json_t *list = json_object_get(talk, "messages"), *m;
	struct kvmod_message messages[16];
	size_t i;

	ck_assert_uint_le(json_array_size(list), 16);
	json_array_foreach (list, i, m)
		messages[i] = (struct kvmod_message){ string(m, "role"), string(m, "content") };
	n_tokens = ROOM;
	return gg_chat(engine, messages, i, json_is_true(json_object_get(talk, "first")), tokens,
		       &n_tokens);
}

/* The tokens as text. */
static char *text_of_tokens(void)
{
	size_t used = 0, room;
	char *text = calloc(n_tokens * 64 + 1, 1);

	for (size_t i = 0; i < n_tokens; i++, used += room) {
		room = n_tokens * 64 - used;
		ck_assert_int_eq(gg_detokenize(engine, tokens[i], text + used, &room), 0);
	}
	return text;
}

static json_int_t count_specials(void)
{
	json_int_t n = 0;

	for (size_t i = 0; i < n_tokens; i++)
		n += (llama_vocab_get_attr(engine->text.vocab, tokens[i]) &
		      LLAMA_TOKEN_ATTR_CONTROL) != 0;
	return n;
}

static bool has_later_system(const json_t *talk)
{
	json_t *list = json_object_get(talk, "messages"), *m;
	bool first = json_is_true(json_object_get(talk, "first"));
	size_t i;

	json_array_foreach (list, i, m) {
		if ((i || !first) && !strcmp(string(m, "role"), "system"))
			return true;
	}
	return false;
}

/* As Jinja: the text, and no special token but the template's own; or a refusal. */
static void compare(const json_t *talk, const char *name)
{
	json_t *expected = json_object_get(talk, "text");
	bool refused = json_is_null(expected) ||
		       (has_later_system(talk) && !engine->text.template->later_system);
	int32_t code = chat(talk);
	char *text;

	ck_assert_msg(code == (refused ? KVMOD_EINVAL : KVMOD_OK), "%s, %s: %d %s", name,
		      string(talk, "talk"), code, test_engine_error());
	if (refused)
		return;
	text = text_of_tokens();
	ck_assert_msg(!strcmp(text, json_string_value(expected)), "%s, %s:\n\"%s\"\nJinja:\n\"%s\"",
		      name, string(talk, "talk"), text, json_string_value(expected));
	ck_assert_msg(count_specials() == json_integer_value(json_object_get(talk, "specials")),
		      "%s, %s: %d special tokens in \"%s\"", name, string(talk, "talk"),
		      (int)count_specials(), text);
	free(text);
}

/* --- tests --------------------------------------------------------------------------- */

/* The row of that name, as if the configuration had named it. */
static const struct gg_template *row(const char *name)
{
	for (size_t i = 0; i < gg_n_templates; i++) {
		if (!strcmp(gg_templates[i].name, name))
			return &gg_templates[i];
	}
	ck_abort_msg("no row %s", name);
	return NULL;
}

static void use(const struct gg_template *template, char *system)
{
	free(engine->text.system);
	engine->text.system = system;
	engine->text.template = template;
}

/* By the row that the template's text finds, then by each one that is as good, by its name. */
static void compare_all(const json_t *entry, const json_t *talks)
{
	json_t *rows = json_object_get(entry, "rows"), *talk;
	const struct gg_template *found;
	const char *name = string(entry, "name");
	uint64_t key;
	char *system;
	size_t i, r;

	ck_assert(gg_template_key(string(entry, "template"), &key, &system));
	free(system);
	ck_assert(gg_template_find(string(entry, "template"), &found, &system));
	ck_assert_msg(found, "%s is not known: its key is 0x%016llx", name, (unsigned long long)key);
	ck_assert_str_eq(found->name, json_string_value(json_array_get(rows, 0)));
	use(found, system);
	json_array_foreach (talks, i, talk)
		compare(talk, name);
	for (r = system ? 1 : 0; r < json_array_size(rows); r++) {
		use(row(json_string_value(json_array_get(rows, r))), NULL);
		json_array_foreach (talks, i, talk)
			compare(talk, engine->text.template->name);
	}
}

/* talks[template]: its conversations, with what Jinja says. */
static json_t *run_jinja(size_t n_templates)
{
	FILE *f = popen("python3 '" SCRIPT "' '" TEMPLATES "' '" BOS "' '" EOS "'", "r");
	json_t *all = read_lines(f), *sorted = json_array(), *talk;
	size_t i;

	ck_assert_int_eq(pclose(f), 0);
	for (i = 0; i < n_templates; i++)
		json_array_append_new(sorted, json_array());
	json_array_foreach (all, i, talk) {
		json_int_t index = json_integer_value(json_object_get(talk, "template"));

		json_array_append(json_array_get(sorted, (size_t)index), talk);
	}
	json_decref(all);
	return sorted;
}

static int today(void)
{
	time_t now = time(NULL);
	struct tm tm;

	ck_assert_ptr_nonnull(localtime_r(&now, &tm));
	return tm.tm_yday;
}

START_TEST(like_jinja)
{
	json_t *entries = read_templates(), *entry, *talks;
	size_t i;
	int day;

	/* Some templates say the date: not over midnight. */
	do {
		day = today();
		talks = run_jinja(json_array_size(entries));
		for (i = 0; i < json_array_size(entries) && day == today(); i++) {
			entry = json_array_get(entries, i);
			ck_assert_uint_ge(json_array_size(json_array_get(talks, i)), 30);
			compare_all(entry, json_array_get(talks, i));
		}
		json_decref(talks);
	} while (i < json_array_size(entries));
	json_decref(entries);
}
END_TEST

/* Each row has a template that it is compared with, and stands where its name does. */
START_TEST(every_row)
{
	json_t *entries = read_templates(), *entry, *name;
	char names[] = GG_TEMPLATE_NAMES, *rest = names;
	size_t i, r;

	ck_assert_str_eq(strsep(&rest, "|"), "auto");
	for (size_t n = 0; n < gg_n_templates; n++) {
		bool compared = false;

		ck_assert_ptr_nonnull(rest);
		ck_assert_str_eq(strsep(&rest, "|"), gg_templates[n].name);
		json_array_foreach (entries, i, entry) {
			json_array_foreach (json_object_get(entry, "rows"), r, name)
				compared |= !strcmp(json_string_value(name), gg_templates[n].name);
		}
		ck_assert_msg(compared, "%s is not compared with Jinja", gg_templates[n].name);
	}
	ck_assert_ptr_null(rest);
	json_decref(entries);
}
END_TEST

/* --- which row ----------------------------------------------------------------------- */

static const struct kvmod_message hello = { "user", "Hello" };

static int32_t say_hello(void)
{
	n_tokens = ROOM;
	return gg_chat(engine, &hello, 1, 1, tokens, &n_tokens);
}

static void check_hello(const char *expected)
{
	char *text;

	ck_assert_msg(!say_hello(), "%s", test_engine_error());
	text = text_of_tokens();
	ck_assert_str_eq(text, expected);
	free(text);
}

#define SMOLLM_HELLO \
	"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging " \
	"Face<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

/* By the template in the model's file, whose default system message that is. */
START_TEST(by_the_file)
{
	unsigned before, after;

	test_engine_warning(&before);
	ck_assert_str_eq(engine->text.template->name, "chatml");
	ck_assert_str_eq(engine->text.system,
			 "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
	check_hello(SMOLLM_HELLO);
	test_engine_warning(&after);
	ck_assert_uint_eq(after, before);
}
END_TEST

/* [engine ggml] chat_template says another one: its name's place in the choice counts. */
START_TEST(by_name)
{
	struct test_engine_params params = { .model = TEST_MODEL, .type = GGML_TYPE_F16 };

	params.chat_template = (int32_t)(row("vicuna") - gg_templates) + 1;
	test_engine_close(engine);
	engine = test_engine_open(&params);
	ck_assert_msg(engine, "%s", test_engine_error());
	check_hello("A chat between a curious user and an artificial intelligence assistant. The "
		    "assistant gives helpful, detailed, and polite answers to the user's "
		    "questions. USER: Hello ASSISTANT:");
}
END_TEST

/* For an unknown template the engine guesses; one warning says so, with what to do. */
START_TEST(by_a_guess)
{
	unsigned before, after;
	const char *warning;

	test_engine_warning(&before);
	engine->text.template = NULL;
	for (int i = 0; i < 3; i++)
		check_hello(SMOLLM_HELLO);
	warning = test_engine_warning(&after);
	ck_assert_uint_eq(after, before + 1);
	ck_assert_str_eq(warning, TEST_MODEL
			 ": kvmod does not know the chat template and uses libllama's "
			 "guess, which may differ: set [engine ggml] chat_template = NAME, "
			 "or use --raw");
}
END_TEST

/* What a row has no place for is refused, and the message says what it is. */
START_TEST(refused)
{
	struct kvmod_message messages[2] = { { "system", "Be brief." }, hello };

	use(row("mistral-v0.2"), NULL);
	ck_assert_int_eq(gg_chat(engine, messages, 2, 1, tokens, &n_tokens), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(),
			 "the chat template mistral-v0.2 of " TEST_MODEL
			 " has no place for a system message: put it into the prompt");
	messages[0] = hello;
	ck_assert_int_eq(gg_chat(engine, messages, 2, 1, tokens, &n_tokens), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(),
			 "message 2 is from \"user\": in the chat template mistral-v0.2, "
			 "user and assistant must alternate");
	messages[1].role = "system";
	use(row("deepseek-r1"), NULL);
	ck_assert_int_eq(gg_chat(engine, messages, 2, 1, tokens, &n_tokens), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(),
			 "the chat template deepseek-r1 of " TEST_MODEL
			 " takes a system message only at the beginning");
}
END_TEST

/* --- how a text is known ------------------------------------------------------------- */

static const struct {
	const char *a, *b;
	bool same;
} pairs[] = {
	{ "{{ a }}", "{{a}}", true },
	{ "{{a+'x'}}", "{{ a  +\n'x' }}", true },
	{ "{{ 'a\\nb' }}", "{{ 'a\nb' }}", true },
	{ "{% if not a %}b{% endif %}", "{%if  not a%}b{%endif%}\n", true },
	{ "{# a #}b", "{# a #}b\n", true },
	{ "<|im_start|>system\nOne<|im_end|>", "<|im_start|>system\nTwo<|im_end|>", true },
	{ "{{'<|im_start|>system\\nOne<|im_end|>'}}",
	  "{{ '<|im_start|>system\nTwo, {}<|im_end|>' }}", true },
	/* What means another thing. */
	{ "{{ a }}", "{{- a }}", false },
	{ "{{- 1 }}", "{{ - 1 }}", false },
	{ "{{ 1 -}}", "{{ 1 }}", false },
	{ "{% if not a %}", "{% if nota %}", false },
	{ "{{ 'a b' }}", "{{ 'ab' }}", false },
	{ "{{ 'a\\\\nb' }}", "{{ 'a\\\nb' }}", false },
	{ "a\\nb", "a\nb", false },
	{ "a b", "ab", false },
	{ "a\n\n", "a", false },
	{ "{# a #}", "{# b #}", false },
	{ "{{ '\\'a b' }}", "{{ '\\'ab' }}", false },
	{ "<|im_start|>system\nOne<|im_end|>", "<|im_start|>system\n{{ a }}<|im_end|>", false },
	{ "{{'<|im_start|>system\\nA<|im_end|>'}}",
	  "{{'<|im_start|>system\\n' + a + '<|im_end|>'}}", false },
	{ "{{'<|im_start|>system\\nA<|im_end|>'}}", "{{'<|im_start|>system\\nA\\tB<|im_end|>'}}",
	  false },
	{ "<|im_start|>system\nA<|im_end|>", "<|im_start|>user\nA<|im_end|>", false },
};

START_TEST(keys)
{
	uint64_t a, b;
	char *system;

	ck_assert(gg_template_key(pairs[_i].a, &a, &system));
	free(system);
	ck_assert(gg_template_key(pairs[_i].b, &b, &system));
	free(system);
	ck_assert_msg((a == b) == pairs[_i].same, "%s\n%s", pairs[_i].a, pairs[_i].b);
}
END_TEST

static const struct {
	const char *template, *system; /* NULL: none, or none that is plain */
} systems[] = {
	{ "{{'<|im_start|>system\\nOne\\nTwo<|im_end|>'}}", "One\nTwo" },
	{ "{{'<|im_start|>system\\nwithin \\\\boxed{}.<|im_end|>'}}", "within \\boxed{}." },
	{ "{{'<|im_start|>system\\n' + x}}{{'<|im_start|>system\nOne<|im_end|>'}}", "One" },
	{ "{{'<|im_start|>system\\n<|im_end|>'}}", NULL },
	{ "{{'<|im_start|>system\\nIt\\'s<|im_end|>'}}", NULL },
	{ "{{'<|im_start|>system\\nOne'}}", NULL },
	{ "{{'<|im_start|>system\\nOne\\x07<|im_end|>'}}", NULL },
	{ "{{'<|im_start|>system\\nOne\003<|im_end|>'}}", NULL },
	{ "{{'<|im_start|>system\\nOne{#x#}<|im_end|>'}}", NULL },
	{ "{{'<|im_start|>user\\nOne<|im_end|>'}}", NULL },
	{ "<|im_start|>system\n<|im_end|><|im_start|>system\nOne<|im_end|>", "One" },
	{ "<|im_start|>system\n\\<|im_end|>", NULL },
	{ "<|im_start|>system\nA{<|im_end|>", "A{" },
	{ "<|im_start|>system\nA<|im_start|>system\nB<|im_end|>", "A<|im_start|>system\nB" },
};

/* The default system message that a template states, as Jinja would say it. */
START_TEST(default_systems)
{
	uint64_t key;
	char *system;

	ck_assert(gg_template_key(systems[_i].template, &key, &system));
	if (systems[_i].system)
		ck_assert_str_eq(system, systems[_i].system);
	else
		ck_assert_ptr_null(system);
	free(system);
}
END_TEST

/* Cut anywhere, and made of anything, a text is read within its bounds. */
START_TEST(odd_texts)
{
	static const char *const odd[] = {
		"",
		"{",
		"{{",
		"{%",
		"{#",
		"{{ ",
		"{{ '",
		"{{ '\\",
		"{{ 'a\\n",
		"{% \"",
		"}}",
		"%}",
		"\n",
		"{{\n",
		"{{ -",
		"<|im_start|>system\n",
		"<|im_start|>system\n\\<|im_end|>",
		"{{ a }",
		"{# #",
	};
	json_t *entries = read_templates();
	const char *whole = string(json_array_get(entries, 0), "template");
	const struct gg_template *found;
	char *system;

	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		ck_assert(gg_template_find(odd[i], &found, &system));
		ck_assert_ptr_null(found);
		free(system);
	}
	for (size_t n = 0; n < strlen(whole); n++) {
		char *part = strndup(whole, n);

		ck_assert(gg_template_find(part, &found, &system));
		ck_assert_ptr_null(found);
		free(system);
		free(part);
	}
	json_decref(entries);
}
END_TEST

/* head, then n times word, then tail. */
static char *long_text(const char *head, const char *word, size_t n, const char *tail)
{
	size_t length = strlen(word);
	char *text = calloc(strlen(head) + n * length + strlen(tail) + 1, 1), *at = text;

	ck_assert_ptr_nonnull(text);
	at = stpcpy(at, head);
	for (size_t i = 0; i < n; i++)
		at = stpcpy(at, word);
	strcpy(at, tail);
	return text;
}

#define OPENING "<|im_start|>system\n"
#define MANY (1 << 16)
#define MOST (1 << 19)

static const struct {
	const char *head, *word;
	size_t n;
	const char *tail;
	size_t system; /* its length; 0: none */
} long_texts[] = {
	{ "", OPENING, MANY, "", 0 },
	{ "", OPENING "'", MANY, "<|im_end|>", 0 },
	{ "", OPENING "<|im_end|>", MANY, "", 0 },
	{ "", OPENING, MANY, "'<|im_end|>", 0 },
	{ OPENING, "a", MOST, "<|im_end|>", MOST },
};

/* A second is enough for each by far; once it took a minute. */
START_TEST(long_templates)
{
	char *text = long_text(long_texts[_i].head, long_texts[_i].word, long_texts[_i].n,
			       long_texts[_i].tail);
	uint64_t key;
	char *system;

	ck_assert(gg_template_key(text, &key, &system));
	ck_assert_uint_eq(system ? strlen(system) : 0, long_texts[_i].system);
	free(system);
	free(text);
}
END_TEST

/* The message is left out wherever it stands, which is looked for once. */
START_TEST(long_system)
{
	char *first = long_text("", "a", MOST, OPENING), *whole = long_text(first, "a", MOST - 1, "<|im_end|>");
	uint64_t key, expected;
	char *system;

	ck_assert(gg_template_key(whole, &key, &system));
	ck_assert_uint_eq(strlen(system), MOST - 1);
	free(system);
	ck_assert(gg_template_key("a" OPENING "<|im_end|>", &expected, &system));
	ck_assert_ptr_null(system);
	ck_assert_uint_eq(key, expected);
	free(whole);
	free(first);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, every_row);
	tcase_add_loop_test(tc, keys, 0, (int)(sizeof(pairs) / sizeof(pairs[0])));
	tcase_add_loop_test(tc, default_systems, 0, (int)(sizeof(systems) / sizeof(systems[0])));
	tcase_add_test(tc, odd_texts);
	tcase_add_loop_test(tc, long_templates, 0, (int)(sizeof(long_texts) / sizeof(long_texts[0])));
	tcase_add_test(tc, long_system);
}

static bool have_jinja;

static void add_model(TCase *tc)
{
	add(tc);
	tcase_add_unchecked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, by_the_file);
	tcase_add_test(tc, by_name);
	tcase_add_test(tc, by_a_guess);
	tcase_add_test(tc, refused);
	if (have_jinja)
		tcase_add_test(tc, like_jinja);
}

int main(void)
{
	int failed;

	have_jinja = !system("python3 -c 'import jinja2' 2>/dev/null");
	failed = test_main("engine chat", *TEST_MODEL ? add_model : add);
	if (*TEST_MODEL && have_jinja)
		return failed;
	puts(*TEST_MODEL ? "skipped: no python3-jinja2 to compare templates with"
			 : "skipped: no default model: configure --with-model=FILE");
	return failed ? failed : 77;
}
