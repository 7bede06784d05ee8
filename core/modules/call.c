/* SPDX-License-Identifier: Apache-2.0 */
/* What a call into a module returned: a code that callers can trust, with words. */
#include "core/modules/call.h"

static int add_words(int code, const char *words, const char *engine)
{
	return engine ? kv_fail(code, "engine %s: %s", engine, words) : kv_fail(code, "%s", words);
}

int kv_called(int32_t code, const char *call, const char *engine)
{
	char words[128];

	if (code == KVMOD_OK)
		return code;
	if (!kv_is_code(code)) {
		snprintf(words, sizeof(words), "%s() returned %d, expected 0 or a KVMOD_E code", call,
			 (int)code);
		code = KVMOD_EINVAL;
	} else {
		snprintf(words, sizeof(words), "%s() failed: %s", call, kvmod_strerror(code));
	}
	return *kvmod_error() ? code : add_words(code, words, engine);
}
