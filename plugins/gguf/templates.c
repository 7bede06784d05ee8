/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of chat templates that kvmod renders exactly, and the keys of the published
 * templates that each row renders. tests/test_engine_chat compares each with Jinja.
 */
#include "chat.h"

/* --- rows ---------------------------------------------------------------------------- */

#define CHATML(role, text)	"<|im_start|>" role "\n" text "<|im_end|>\n"
#define CHATML_PROMPT		"<|im_start|>assistant\n"
#define CHATML_TURNS \
	.system = CHATML("system", GG_TEXT), .later_system = CHATML("system", GG_TEXT), \
	.user = CHATML("user", GG_TEXT), .assistant = CHATML("assistant", GG_TEXT)

#define LLAMA_3(role) \
	"<|start_header_id|>" role "<|end_header_id|>\n\n" GG_STRIP(GG_TEXT) "<|eot_id|>"
#define LLAMA_3_PROMPT	"<|start_header_id|>assistant<|end_header_id|>\n\n"
#define LLAMA_3_TURNS \
	.later_system = LLAMA_3("system"), .user = LLAMA_3("user"), \
	.assistant = LLAMA_3("assistant"), .generation = LLAMA_3_PROMPT
#define LLAMA_3_1_SYSTEM(date, text) \
	"<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n" \
	"Today Date: " date "\n\n" text "<|eot_id|>"
#define LLAMA_3_1_DATE	"26 Jul 2024" /* fixed in the template */

#define ZEPHYR(role)	"<|" role "|>\n" GG_TEXT GG_EOS "\n"
#define OPENCHAT(role)	"GPT4 Correct " role ": " GG_TEXT "<|end_of_turn|>"

#define DEEPSEEK_R1 \
	.begin = GG_BOS, .system = GG_TEXT, .user = "<｜User｜>" GG_TEXT, \
	.assistant = "<｜Assistant｜>" GG_TEXT "<｜end▁of▁sentence｜>", .flags = GG_DROP_THOUGHTS

#define DEEPSEEK_CODER_SYSTEM \
	"You are an AI programming assistant, utilizing the Deepseek Coder model, developed by " \
	"Deepseek Company, and you only answer questions related to computer science. For " \
	"politically sensitive questions, security and privacy issues, and other non-computer " \
	"science questions, you will refuse to answer\n"

#define MISTRAL_SMALL_SYSTEM \
	"You are Mistral Small 3, a Large Language Model (LLM) created by Mistral AI, a " \
	"French startup headquartered in Paris.\nYour knowledge base was last updated on " \
	"2023-10-01. The current date is " GG_DATE ".\n\nWhen you're not sure about some " \
	"information, you say that you don't have the information and don't make up " \
	"anything.\nIf the user's question is not clear, ambiguous, or does not provide " \
	"enough context for you to accurately answer the question, you do not try to answer " \
	"it right away and you rather ask the user to clarify their request (e.g. \"What are " \
	"some good restaurants around me?\" => \"Where are you?\" or \"When is the next " \
	"flight to Tokyo\" => \"Where do you travel from?\")"

#define VICUNA_SYSTEM \
	"A chat between a curious user and an artificial intelligence assistant. The assistant " \
	"gives helpful, detailed, and polite answers to the user's questions."

enum row {
	CHATML_PLAIN, CHATML_BOS, CHATML_THINK, SMOLLM2, QWEN1_5, QWEN2, QWEN2_5, QWEN3,
	QWEN3_INSTRUCT, QWEN3_THINKING, QWQ, LLAMA_2, LLAMA_3_0, LLAMA_3_1, LLAMA_3_2,
	MISTRAL_0_1, MISTRAL_0_2, MISTRAL_V1, MISTRAL_V3, MISTRAL_V3_TEKKEN, MISTRAL_V7,
	MISTRAL_V7_TEKKEN, ZEPHYR_, VICUNA, DEEPSEEK_CODER, DEEPSEEK_LLM, DEEPSEEK_R1_,
	DEEPSEEK_R1_THINK, FALCON3, OPENCHAT_, OPENCHAT_3_6, SOLAR, YI,
	N_ROWS
};

const struct gg_template gg_templates[] = {
	[CHATML_PLAIN] = { "chatml", CHATML_TURNS, .generation = CHATML_PROMPT },
	[CHATML_BOS] = { "chatml-bos", .begin = GG_BOS, CHATML_TURNS, .generation = CHATML_PROMPT },
	[CHATML_THINK] = { "chatml-think", CHATML_TURNS, .generation = CHATML_PROMPT "<think>\n" },
	[SMOLLM2] = { "smollm2", CHATML_TURNS, .generation = CHATML_PROMPT,
		      .no_system = CHATML("system", "You are a helpful AI assistant named SmolLM, "
					  "trained by Hugging Face") },
	[QWEN1_5] = { "qwen1.5", CHATML_TURNS, .generation = CHATML_PROMPT, .flags = GG_NO_PROMPT,
		      .no_system = CHATML("system", "You are a helpful assistant") },
	[QWEN2] = { "qwen2", CHATML_TURNS, .generation = CHATML_PROMPT,
		    .no_system = CHATML("system", "You are a helpful assistant.") },
	[QWEN2_5] = { "qwen2.5", CHATML_TURNS, .generation = CHATML_PROMPT,
		      .no_system = CHATML("system", "You are Qwen, created by Alibaba Cloud. "
					  "You are a helpful assistant.") },
	[QWEN3] = { "qwen3", CHATML_TURNS, .generation = CHATML_PROMPT,
		    .flags = GG_QWEN3_THOUGHTS | GG_LAST_THINKS },
	[QWEN3_INSTRUCT] = { "qwen3-instruct", CHATML_TURNS, .generation = CHATML_PROMPT,
			     .flags = GG_QWEN3_THOUGHTS },
	[QWEN3_THINKING] = { "qwen3-thinking", CHATML_TURNS,
			     .generation = CHATML_PROMPT "<think>\n",
			     .flags = GG_QWEN3_THOUGHTS | GG_LAST_THINKS },
	[QWQ] = { "qwq", CHATML_TURNS, .generation = CHATML_PROMPT "<think>\n",
		  .flags = GG_QWQ_THOUGHTS },
	[LLAMA_2] = { "llama-2", .flags = GG_TURNS,
		      .system_user = GG_BOS "[INST] "
			      GG_STRIP("<<SYS>>\n" GG_SYSTEM "\n<</SYS>>\n\n" GG_TEXT) " [/INST]",
		      .user = GG_BOS "[INST] " GG_STRIP(GG_TEXT) " [/INST]",
		      .assistant = " " GG_STRIP(GG_TEXT) " " GG_EOS },
	[LLAMA_3_0] = { "llama-3", .begin = GG_BOS, .system = LLAMA_3("system"), LLAMA_3_TURNS },
	[LLAMA_3_1] = { "llama-3.1", .begin = GG_BOS,
			.system = LLAMA_3_1_SYSTEM(LLAMA_3_1_DATE, GG_STRIP(GG_TEXT)),
			.no_system = LLAMA_3_1_SYSTEM(LLAMA_3_1_DATE, ""), LLAMA_3_TURNS },
	[LLAMA_3_2] = { "llama-3.2", .begin = GG_BOS,
			.system = LLAMA_3_1_SYSTEM(GG_TODAY, GG_STRIP(GG_TEXT)),
			.no_system = LLAMA_3_1_SYSTEM(GG_TODAY, ""), LLAMA_3_TURNS },
	[MISTRAL_0_1] = { "mistral-v0.1", .begin = GG_BOS, .flags = GG_TURNS,
			  .user = "[INST] " GG_TEXT " [/INST]", .assistant = GG_TEXT GG_EOS " " },
	[MISTRAL_0_2] = { "mistral-v0.2", .begin = GG_BOS, .flags = GG_TURNS,
			  .user = "[INST] " GG_TEXT " [/INST]", .assistant = GG_TEXT GG_EOS },
	[MISTRAL_V1] = { "mistral-v1", .begin = GG_BOS, .flags = GG_TURNS,
			 .system_user = " [INST] " GG_SYSTEM "\n\n" GG_TEXT " [/INST]",
			 .user = " [INST] " GG_TEXT " [/INST]", .assistant = " " GG_TEXT GG_EOS },
	[MISTRAL_V3] = { "mistral-v3", .begin = GG_BOS, .flags = GG_TURNS | GG_SYSTEM_LAST,
			 .system_user = "[INST] " GG_SYSTEM "\n\n" GG_TEXT "[/INST]",
			 .user = "[INST] " GG_TEXT "[/INST]",
			 .assistant = " " GG_STRIP(GG_TEXT) GG_EOS },
	[MISTRAL_V3_TEKKEN] = { "mistral-v3-tekken", .begin = GG_BOS,
				.flags = GG_TURNS | GG_SYSTEM_LAST,
				.system_user = "[INST]" GG_SYSTEM "\n\n" GG_TEXT "[/INST]",
				.user = "[INST]" GG_TEXT "[/INST]", .assistant = GG_TEXT GG_EOS },
	[MISTRAL_V7] = { "mistral-v7", .begin = GG_BOS,
			 .system = "[SYSTEM_PROMPT] " GG_TEXT "[/SYSTEM_PROMPT]",
			 .later_system = "[SYSTEM_PROMPT] " GG_TEXT "[/SYSTEM_PROMPT]",
			 .user = "[INST] " GG_TEXT "[/INST]", .assistant = " " GG_TEXT GG_EOS },
	[MISTRAL_V7_TEKKEN] = { "mistral-v7-tekken", .begin = GG_BOS,
				.system = "[SYSTEM_PROMPT]" GG_TEXT "[/SYSTEM_PROMPT]",
				.later_system = "[SYSTEM_PROMPT]" GG_TEXT "[/SYSTEM_PROMPT]",
				.no_system = "[SYSTEM_PROMPT]" MISTRAL_SMALL_SYSTEM
					     "[/SYSTEM_PROMPT]",
				.user = "[INST]" GG_TEXT "[/INST]", .assistant = GG_TEXT GG_EOS },
	[ZEPHYR_] = { "zephyr", .system = ZEPHYR("system"), .later_system = ZEPHYR("system"),
		      .user = ZEPHYR("user"), .assistant = ZEPHYR("assistant"),
		      .generation = "<|assistant|>\n" },
	[VICUNA] = { "vicuna", .flags = GG_TURNS, .system = GG_TEXT, .no_system = VICUNA_SYSTEM,
		     .user = " USER: " GG_STRIP(GG_TEXT),
		     .assistant = " ASSISTANT: " GG_STRIP(GG_TEXT) GG_EOS,
		     .generation = " ASSISTANT:" },
	[DEEPSEEK_CODER] = { "deepseek-coder", .begin = GG_BOS, .system = GG_TEXT,
			     .no_system = DEEPSEEK_CODER_SYSTEM,
			     .user = "### Instruction:\n" GG_TEXT "\n",
			     .assistant = "### Response:\n" GG_TEXT "\n<|EOT|>\n",
			     .generation = "### Response:\n" },
	[DEEPSEEK_LLM] = { "deepseek-llm", .begin = GG_BOS, .system = GG_TEXT "\n\n",
			   .later_system = GG_TEXT "\n\n", .user = "User: " GG_TEXT "\n\n",
			   .assistant = "Assistant: " GG_TEXT GG_EOS, .generation = "Assistant:" },
	[DEEPSEEK_R1_] = { "deepseek-r1", DEEPSEEK_R1, .generation = "<｜Assistant｜>" },
	[DEEPSEEK_R1_THINK] = { "deepseek-r1-think", DEEPSEEK_R1,
				.generation = "<｜Assistant｜><think>\n" },
	[FALCON3] = { "falcon3", .system = "<|system|>\n" GG_TEXT "\n",
		      .later_system = "<|system|>\n" GG_TEXT "\n",
		      .user = "<|user|>\n" GG_TEXT "\n",
		      .assistant = ZEPHYR("assistant"),
		      .last_assistant = "<|assistant|>\n" GG_TEXT GG_EOS,
		      .generation = "<|assistant|>\n" },
	[OPENCHAT_] = { "openchat", .begin = GG_BOS, .system = OPENCHAT("System"),
			.later_system = OPENCHAT("System"), .user = OPENCHAT("User"),
			.assistant = OPENCHAT("Assistant"),
			.generation = "GPT4 Correct Assistant:" },
	[OPENCHAT_3_6] = { "openchat-3.6", .begin = GG_BOS, .system = LLAMA_3("System"),
			   .later_system = LLAMA_3("System"), .user = LLAMA_3("GPT4 Correct User"),
			   .assistant = LLAMA_3("GPT4 Correct Assistant"),
			   .generation = "<|start_header_id|>GPT4 Correct Assistant"
					 "<|end_header_id|>\n\n" },
	[SOLAR] = { "solar", .flags = GG_SKIP_EMPTY_SYSTEM,
		    .system = "### System:\n" GG_TEXT "\n\n",
		    .user = "### User:\n" GG_TEXT "\n\n", .assistant = "### Assistant:\n" GG_TEXT,
		    .generation = "### Assistant:\n" },
	[YI] = { "yi", .system = GG_TEXT, .user = CHATML("user", GG_TEXT) CHATML_PROMPT,
		 .assistant = GG_TEXT "<|im_end|>\n" },
};
const size_t gg_n_templates = N_ROWS;

/* --- texts --------------------------------------------------------------------------- */

static const struct {
	uint64_t key;
	enum row row;
} known[] = {
	{ 0x679f20b35506c517u, CHATML_PLAIN }, /* SmolLM2-135M-Instruct; Qwen2-Instruct */
	{ 0x5d024df2da48de7eu, CHATML_PLAIN }, /* transformers' own; OpenHermes-2.5 */
	{ 0x192afab84b7e1cedu, CHATML_PLAIN }, /* Mistral-7B-OpenOrca */
	{ 0x7429fbf2e175c67du, CHATML_PLAIN }, /* unsloth, chatml */
	{ 0xd3b732e7097e2176u, CHATML_BOS }, /* Nous-Hermes-2 */
	{ 0xea29c9253aeefd3bu, CHATML_BOS }, /* dolphin-2.8-mistral */
	{ 0x0e555394f740e916u, CHATML_THINK }, /* Qwen3-Thinking, short */
	{ 0x88f1d3cabae493c7u, QWEN1_5 }, /* Qwen1.5-Chat */
	{ 0xbeda804301bce9adu, QWEN2 }, /* chatml with a default message */
	{ 0x087b30da2d3c975bu, CHATML_PLAIN }, /* Qwen2.5-Instruct; Qwen2.5-Math-Instruct */
	{ 0x4e4e88266b578c16u, QWEN3 }, /* Qwen3 */
	{ 0x906c95863c4b25e6u, QWEN3 }, /* Qwen3, unsloth */
	{ 0x73441d72911cb745u, QWEN3_INSTRUCT }, /* Qwen3-Instruct-2507 */
	{ 0x214f8ba7c3c619a5u, QWEN3_THINKING }, /* Qwen3-Thinking-2507 */
	{ 0xba5cd204bdfbcf27u, LLAMA_2 }, /* Llama-2-chat-hf */
	{ 0x7a5af6b8e11f665bu, LLAMA_2 }, /* Llama-2-chat-hf, later */
	{ 0x4bf469a1c54ed8f0u, LLAMA_2 }, /* transformers, for Llama */
	{ 0x98db376b81142d86u, LLAMA_3_0 }, /* Meta-Llama-3-Instruct */
	{ 0xbf730aa151d604beu, LLAMA_3_0 }, /* Meta-Llama-3-Instruct, at first */
	{ 0x090fe644c86f2657u, LLAMA_3_0 }, /* Llama-3, unsloth */
	{ 0xb01b3932bca6c4bau, LLAMA_3_1 }, /* Llama-3.1-Instruct, Llama-3.3-Instruct */
	{ 0xc4a8272b826ae4d7u, LLAMA_3_1 }, /* Llama-3.1, short */
	{ 0x4061333c0892965au, LLAMA_3_2 }, /* Llama-3.2-Instruct */
	{ 0x1aff17f06d6feae6u, MISTRAL_0_1 }, /* Mistral-7B-Instruct-v0.1 */
	{ 0x2bc9246e3e4f7959u, MISTRAL_0_2 }, /* Mistral-7B-Instruct-v0.2 */
	{ 0x17d609ce8773976fu, MISTRAL_V1 }, /* Mistral v1 */
	{ 0xfcd2d998c8600f39u, MISTRAL_V3 }, /* Mistral-Large-Instruct-2407, Mistral v3 */
	{ 0xae0401b13efb6f3bu, MISTRAL_V3_TEKKEN }, /* Mistral-Nemo-Instruct-2407 */
	{ 0xa23480d2cf60483cu, MISTRAL_V3_TEKKEN }, /* Mistral-Nemo-Instruct-2407, at first */
	{ 0xb7f8fcc00d7b73ccu, MISTRAL_V7 }, /* Mistral-Large-Instruct-2411 */
	{ 0x3636a25b398f2374u, MISTRAL_V7_TEKKEN }, /* Mistral-Small-24B-Instruct-2501, axolotl */
	{ 0x658e43e73dc9b71au, ZEPHYR_ }, /* zephyr-7b-beta, TinyLlama-1.1B-Chat */
	{ 0x8a780e574eff37dfu, ZEPHYR_ }, /* zephyr, unsloth */
	{ 0x4af4394a0a550c79u, VICUNA }, /* vicuna, v1.1 */
	{ 0xe8b7251a7d6a6b39u, DEEPSEEK_CODER }, /* deepseek-coder-instruct */
	{ 0x5b1c0db29d067ebcu, DEEPSEEK_LLM }, /* deepseek-llm-chat */
	{ 0xb82bac9987566442u, DEEPSEEK_R1_ }, /* DeepSeek-R1-Distill, at first */
	{ 0x6716bc643f4ca706u, DEEPSEEK_R1_THINK }, /* DeepSeek-R1-Distill */
	{ 0xe582db3518dee7e9u, DEEPSEEK_R1_THINK }, /* DeepSeek-R1-Distill, llama.cpp */
	{ 0xf923c8179b5174d3u, OPENCHAT_ }, /* openchat-3.5, Starling-LM */
	{ 0x9905da912cb62c25u, SOLAR }, /* SOLAR-10.7B-Instruct */
	{ 0x365a0095cc3a5cb9u, QWQ }, /* QwQ-32B */
	{ 0x1b15dfdbb4a34531u, QWEN3 }, /* Qwen3, later */
	{ 0x538b30292e895495u, CHATML_PLAIN }, /* dolphin-2.6-mistral */
	{ 0xb83cc474472a4b90u, FALCON3 }, /* Falcon3-Instruct */
	{ 0x66b8c017d4d6e67eu, OPENCHAT_3_6 }, /* openchat-3.6 */
	{ 0x903cbee051e4b8cau, YI }, /* Yi-1.5-Chat */
};

bool gg_template_find(const char *template, const struct gg_template **row, char **system)
{
	uint64_t key;

	*row = NULL;
	if (!gg_template_key(template, &key, system))
		return false;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && !*row; i++) {
		if (known[i].key == key)
			*row = &gg_templates[known[i].row];
	}
	return true;
}
