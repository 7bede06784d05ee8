/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ABI, as numbers: on machines with 64-bit pointers no struct of the public
 * headers may change its size (but by new fields at its end, with a new
 * KVMOD_ABI_MINOR) and no field may move. The numbers are those of ABI 2.0.
 */
#include <check.h>
#undef fail			/* host->fail() is meant */
#include <kvmod/kvmod.h>
#include <kvmod/scorer.h>

#if UINTPTR_MAX == UINT64_MAX
struct pin {
	const char *what;
	size_t is, was;
};

#define SIZE(s, n)	{ "sizeof(struct " #s ")", sizeof(struct s), n }
#define AT(s, f, n)	{ "offsetof(struct " #s ", " #f ")", offsetof(struct s, f), n }

static const struct pin pins[] = {
	SIZE(kvmod_view, 32),
	AT(kvmod_view, type, 0),
	AT(kvmod_view, rotation, 4),
	AT(kvmod_view, data, 8),
	AT(kvmod_view, stride, 16),
	AT(kvmod_view, head_stride, 24),

	SIZE(kvmod_head, 88),
	AT(kvmod_head, size, 0),
	AT(kvmod_head, n, 4),
	AT(kvmod_head, k, 8),
	AT(kvmod_head, v, 40),
	AT(kvmod_head, positions, 72),
	AT(kvmod_head, n_turned, 80),
	AT(kvmod_head, turn, 84),

	SIZE(kvmod_segment, 264),
	AT(kvmod_segment, size, 0),
	AT(kvmod_segment, layer, 4),
	AT(kvmod_segment, sequence, 8),
	AT(kvmod_segment, logical, 16),
	AT(kvmod_segment, n_q_heads, 24),
	AT(kvmod_segment, n_kv_heads, 28),
	AT(kvmod_segment, head_dim, 32),
	AT(kvmod_segment, first_head, 36),
	AT(kvmod_segment, total_heads, 40),
	AT(kvmod_segment, n_rows, 44),
	AT(kvmod_segment, scale, 48),
	AT(kvmod_segment, softcap, 52),
	AT(kvmod_segment, heads, 56),
	AT(kvmod_segment, q, 64),
	AT(kvmod_segment, row_positions, 96),
	AT(kvmod_segment, colsum, 104),
	AT(kvmod_segment, q_mean, 136),
	AT(kvmod_segment, q_cov, 168),
	AT(kvmod_segment, wo_norm, 200),
	AT(kvmod_segment, n_q_stat, 232),
	AT(kvmod_segment, sink_logits, 240),
	AT(kvmod_segment, device, 248),
	AT(kvmod_segment, phase_base, 256),

	SIZE(kvmod_reread, 24),
	AT(kvmod_reread, size, 0),
	AT(kvmod_reread, sinks, 4),
	AT(kvmod_reread, begin, 8),
	AT(kvmod_reread, end, 16),

	SIZE(kvmod_ask, 16),
	AT(kvmod_ask, size, 0),
	AT(kvmod_ask, n_answer, 4),
	AT(kvmod_ask, question, 8),

	SIZE(kvmod_request, 136),
	AT(kvmod_request, size, 0),
	AT(kvmod_request, phase, 4),
	AT(kvmod_request, n_layers, 8),
	AT(kvmod_request, n_window_layers, 12),
	AT(kvmod_request, n_segments, 16),
	AT(kvmod_request, question_later, 20),
	AT(kvmod_request, segments, 24),
	AT(kvmod_request, device, 32),
	AT(kvmod_request, stream, 40),
	AT(kvmod_request, state, 48),
	AT(kvmod_request, replay, 56),
	AT(kvmod_request, reread, 64),
	AT(kvmod_request, replay_ctx, 72),
	AT(kvmod_request, scratch, 80),
	AT(kvmod_request, scratch_size, 88),
	AT(kvmod_request, device_scratch, 96),
	AT(kvmod_request, device_scratch_size, 104),
	AT(kvmod_request, leave_below, 112),
	AT(kvmod_request, opening, 120),
	AT(kvmod_request, ask, 128),

	SIZE(kvmod_span, 8),
	AT(kvmod_span, begin, 0),
	AT(kvmod_span, end, 4),

	SIZE(kvmod_keep, 72),
	AT(kvmod_keep, size, 0),
	AT(kvmod_keep, kind, 4),
	AT(kvmod_keep, status, 8),
	AT(kvmod_keep, max_spans, 12),
	AT(kvmod_keep, n_spans, 16),
	AT(kvmod_keep, k_store, 20),
	AT(kvmod_keep, v_store, 24),
	AT(kvmod_keep, reserved, 28),
	AT(kvmod_keep, loss, 32),
	AT(kvmod_keep, spans, 40),
	AT(kvmod_keep, counts, 48),
	AT(kvmod_keep, indices, 56),
	AT(kvmod_keep, index_stride, 64),

	SIZE(kvmod_plan, 24),
	AT(kvmod_plan, size, 0),
	AT(kvmod_plan, n_keeps, 4),
	AT(kvmod_plan, flags, 8),
	AT(kvmod_plan, reserved, 12),
	AT(kvmod_plan, keeps, 16),

	SIZE(kvmod_model, 112),
	AT(kvmod_model, size, 0),
	AT(kvmod_model, n_layers, 4),
	AT(kvmod_model, n_q_heads, 8),
	AT(kvmod_model, n_kv_heads, 12),
	AT(kvmod_model, head_dim, 16),
	AT(kvmod_model, n_vocab, 20),
	AT(kvmod_model, context, 24),
	AT(kvmod_model, name, 32),
	AT(kvmod_model, architecture, 40),
	AT(kvmod_model, scale, 48),
	AT(kvmod_model, softcap, 52),
	AT(kvmod_model, rope_base, 56),
	AT(kvmod_model, rope_interleaved, 60),
	AT(kvmod_model, end_tokens, 64),
	AT(kvmod_model, n_end_tokens, 72),
	AT(kvmod_model, n_device_layers, 76),
	AT(kvmod_model, device, 80),
	AT(kvmod_model, n_window_layers, 88),
	AT(kvmod_model, flags, 92),
	AT(kvmod_model, rope_freqs, 96),
	AT(kvmod_model, n_rope_freqs, 104),
	AT(kvmod_model, rope_magnitude, 108),

	SIZE(kvmod_host, 88),
	AT(kvmod_host, size, 0),
	AT(kvmod_host, abi_minor, 4),
	AT(kvmod_host, ctx, 8),
	AT(kvmod_host, log, 16),
	AT(kvmod_host, fail, 24),
	AT(kvmod_host, register_policy, 32),
	AT(kvmod_host, register_engine, 40),
	AT(kvmod_host, register_device, 48),
	AT(kvmod_host, parallel, 56),
	AT(kvmod_host, n_threads, 64),
	AT(kvmod_host, get_extension, 72),
	AT(kvmod_host, device, 80),

	SIZE(kvmod_amount, 16),
	AT(kvmod_amount, value, 0),
	AT(kvmod_amount, is_count, 8),
	AT(kvmod_amount, reserved, 12),

	SIZE(kvmod_list, 16),
	AT(kvmod_list, n_items, 0),
	AT(kvmod_list, plain, 4),
	AT(kvmod_list, items, 8),

	SIZE(kvmod_param, 40),
	AT(kvmod_param, name, 0),
	AT(kvmod_param, type, 8),
	AT(kvmod_param, offset, 12),
	AT(kvmod_param, def, 16),
	AT(kvmod_param, range, 24),
	AT(kvmod_param, help, 32),

	SIZE(kvmod_instance, 16),
	AT(kvmod_instance, host, 0),
	AT(kvmod_instance, ops, 8),

	SIZE(kvmod_module, 80),
	AT(kvmod_module, size, 0),
	AT(kvmod_module, magic, 4),
	AT(kvmod_module, abi_major, 8),
	AT(kvmod_module, abi_minor, 12),
	AT(kvmod_module, flags, 16),
	AT(kvmod_module, reserved, 20),
	AT(kvmod_module, name, 24),
	AT(kvmod_module, version, 32),
	AT(kvmod_module, license, 40),
	AT(kvmod_module, author, 48),
	AT(kvmod_module, description, 56),
	AT(kvmod_module, init, 64),
	AT(kvmod_module, exit, 72),

	SIZE(kvmod_needs, 48),
	AT(kvmod_needs, size, 0),
	AT(kvmod_needs, what, 4),
	AT(kvmod_needs, rows, 8),
	AT(kvmod_needs, decode_every, 24),
	AT(kvmod_needs, types, 28),
	AT(kvmod_needs, min_rows, 32),
	AT(kvmod_needs, q_stats_skip, 36),
	AT(kvmod_needs, takes, 40),
	AT(kvmod_needs, reserved, 44),

	SIZE(kvmod_workspace, 24),
	AT(kvmod_workspace, size, 0),
	AT(kvmod_workspace, reserved, 4),
	AT(kvmod_workspace, host, 8),
	AT(kvmod_workspace, device, 16),

	SIZE(kvmod_policy_ops, 104),
	AT(kvmod_policy_ops, size, 0),
	AT(kvmod_policy_ops, flags, 4),
	AT(kvmod_policy_ops, name, 8),
	AT(kvmod_policy_ops, description, 16),
	AT(kvmod_policy_ops, devices, 24),
	AT(kvmod_policy_ops, instance_size, 32),
	AT(kvmod_policy_ops, n_params, 36),
	AT(kvmod_policy_ops, params, 40),
	AT(kvmod_policy_ops, open, 48),
	AT(kvmod_policy_ops, close, 56),
	AT(kvmod_policy_ops, needs, 64),
	AT(kvmod_policy_ops, begin, 72),
	AT(kvmod_policy_ops, end, 80),
	AT(kvmod_policy_ops, workspace, 88),
	AT(kvmod_policy_ops, compress, 96),

	SIZE(kvmod_message, 16),
	AT(kvmod_message, role, 0),
	AT(kvmod_message, text, 8),

	SIZE(kvmod_batch_item, 40),
	AT(kvmod_batch_item, size, 0),
	AT(kvmod_batch_item, n_tokens, 4),
	AT(kvmod_batch_item, seq, 8),
	AT(kvmod_batch_item, tokens, 16),
	AT(kvmod_batch_item, logits, 24),
	AT(kvmod_batch_item, n_logits, 32),
	AT(kvmod_batch_item, reserved, 36),

	SIZE(kvmod_batch, 40),
	AT(kvmod_batch, size, 0),
	AT(kvmod_batch, n_items, 4),
	AT(kvmod_batch, item_stride, 8),
	AT(kvmod_batch, reserved, 12),
	AT(kvmod_batch, items, 16),
	AT(kvmod_batch, progress, 24),
	AT(kvmod_batch, progress_arg, 32),

	SIZE(kvmod_bytes, 32),
	AT(kvmod_bytes, size, 0),
	AT(kvmod_bytes, reserved, 4),
	AT(kvmod_bytes, used, 8),
	AT(kvmod_bytes, held, 16),
	AT(kvmod_bytes, full, 24),

	SIZE(kvmod_engine_ops, 216),
	AT(kvmod_engine_ops, size, 0),
	AT(kvmod_engine_ops, flags, 4),
	AT(kvmod_engine_ops, name, 8),
	AT(kvmod_engine_ops, description, 16),
	AT(kvmod_engine_ops, instance_size, 24),
	AT(kvmod_engine_ops, n_params, 28),
	AT(kvmod_engine_ops, params, 32),
	AT(kvmod_engine_ops, open, 40),
	AT(kvmod_engine_ops, close, 48),
	AT(kvmod_engine_ops, model, 56),
	AT(kvmod_engine_ops, tokenize, 64),
	AT(kvmod_engine_ops, detokenize, 72),
	AT(kvmod_engine_ops, chat, 80),
	AT(kvmod_engine_ops, seq_open, 88),
	AT(kvmod_engine_ops, seq_close, 96),
	AT(kvmod_engine_ops, seq_fork, 104),
	AT(kvmod_engine_ops, seq_truncate, 112),
	AT(kvmod_engine_ops, seq_length, 120),
	AT(kvmod_engine_ops, prompt_begin, 128),
	AT(kvmod_engine_ops, step, 136),
	AT(kvmod_engine_ops, cancel, 144),
	AT(kvmod_engine_ops, request, 152),
	AT(kvmod_engine_ops, apply, 160),
	AT(kvmod_engine_ops, bytes, 168),
	AT(kvmod_engine_ops, seq_room, 176),
	AT(kvmod_engine_ops, check, 184),
	AT(kvmod_engine_ops, serves, 192),
	AT(kvmod_engine_ops, chat_part, 200),
	AT(kvmod_engine_ops, seq_narrow, 208),

	SIZE(kvmod_gather, 80),
	AT(kvmod_gather, size, 0),
	AT(kvmod_gather, n_spans, 4),
	AT(kvmod_gather, spans, 8),
	AT(kvmod_gather, indices, 16),
	AT(kvmod_gather, n_indices, 24),
	AT(kvmod_gather, row_bytes, 32),
	AT(kvmod_gather, src, 40),
	AT(kvmod_gather, dst, 48),
	AT(kvmod_gather, src_stride, 56),
	AT(kvmod_gather, dst_stride, 64),
	AT(kvmod_gather, n_rows, 72),

	SIZE(kvmod_device_ops, 136),
	AT(kvmod_device_ops, size, 0),
	AT(kvmod_device_ops, reserved0, 4),
	AT(kvmod_device_ops, name, 8),
	AT(kvmod_device_ops, description, 16),
	AT(kvmod_device_ops, instance_size, 24),
	AT(kvmod_device_ops, n_params, 28),
	AT(kvmod_device_ops, params, 32),
	AT(kvmod_device_ops, open, 40),
	AT(kvmod_device_ops, close, 48),
	AT(kvmod_device_ops, alloc, 56),
	AT(kvmod_device_ops, free, 64),
	AT(kvmod_device_ops, to_host, 72),
	AT(kvmod_device_ops, from_host, 80),
	AT(kvmod_device_ops, synchronize, 88),
	AT(kvmod_device_ops, gather, 96),
	AT(kvmod_device_ops, memory, 104),
	AT(kvmod_device_ops, host_alloc, 112),
	AT(kvmod_device_ops, host_free, 120),
	AT(kvmod_device_ops, get_extension, 128),

	SIZE(kvmod_device_timing, 48),
	AT(kvmod_device_timing, size, 0),
	AT(kvmod_device_timing, reserved, 4),
	AT(kvmod_device_timing, read, 8),
	AT(kvmod_device_timing, mark_new, 16),
	AT(kvmod_device_timing, mark_free, 24),
	AT(kvmod_device_timing, mark_set, 32),
	AT(kvmod_device_timing, elapsed, 40),

	SIZE(kvmod_finding, 48),
	AT(kvmod_finding, size, 0),
	AT(kvmod_finding, code, 4),
	AT(kvmod_finding, kind, 8),
	AT(kvmod_finding, name, 16),
	AT(kvmod_finding, message, 24),
	AT(kvmod_finding, module, 32),
	AT(kvmod_finding, seconds, 40),

	SIZE(kvmod_setting, 48),
	AT(kvmod_setting, size, 0),
	AT(kvmod_setting, from, 4),
	AT(kvmod_setting, section, 8),
	AT(kvmod_setting, key, 16),
	AT(kvmod_setting, value, 24),
	AT(kvmod_setting, file, 32),
	AT(kvmod_setting, line, 40),
	AT(kvmod_setting, reserved, 44),

	SIZE(kvmod_counters, 80),
	AT(kvmod_counters, size, 0),
	AT(kvmod_counters, reserved, 4),
	AT(kvmod_counters, requests, 8),
	AT(kvmod_counters, segments, 16),
	AT(kvmod_counters, positions_seen, 24),
	AT(kvmod_counters, positions_kept, 32),
	AT(kvmod_counters, bytes_freed, 40),
	AT(kvmod_counters, failed_calls, 48),
	AT(kvmod_counters, failed_plans, 56),
	AT(kvmod_counters, failed_segments, 64),
	AT(kvmod_counters, nanoseconds, 72),

	SIZE(kvmod_prompt, 64),
	AT(kvmod_prompt, size, 0),
	AT(kvmod_prompt, replay_rows, 4),
	AT(kvmod_prompt, tokens, 8),
	AT(kvmod_prompt, n_tokens, 16),
	AT(kvmod_prompt, logits, 24),
	AT(kvmod_prompt, progress, 32),
	AT(kvmod_prompt, progress_arg, 40),
	AT(kvmod_prompt, n_opening, 48),
	AT(kvmod_prompt, flags, 56),
	AT(kvmod_prompt, reserved, 60),

	SIZE(kvmod_prompted, 120),
	AT(kvmod_prompted, size, 0),
	AT(kvmod_prompted, status, 4),
	AT(kvmod_prompted, prefill_seconds, 8),
	AT(kvmod_prompted, decision_seconds, 16),
	AT(kvmod_prompted, apply_seconds, 24),
	AT(kvmod_prompted, budget, 32),
	AT(kvmod_prompted, replay_loss, 40),
	AT(kvmod_prompted, before, 48),
	AT(kvmod_prompted, after, 80),
	AT(kvmod_prompted, left_whole, 112),
	AT(kvmod_prompted, reserved, 116),

	SIZE(kvmod_left, 56),
	AT(kvmod_left, size, 0),
	AT(kvmod_left, decode_cuts, 4),
	AT(kvmod_left, seen, 8),
	AT(kvmod_left, budget, 16),
	AT(kvmod_left, bytes, 24),

	/* Authors' instances begin with it. */
	SIZE(kvmod_scorer, 120),
	AT(kvmod_scorer, instance, 0),
	AT(kvmod_scorer, budget, 16),
	AT(kvmod_scorer, sinks, 32),
	AT(kvmod_scorer, window, 40),
	AT(kvmod_scorer, pool, 48),
	AT(kvmod_scorer, decode_every, 56),
	AT(kvmod_scorer, level, 64),
	AT(kvmod_scorer, whole_layers, 72),
	AT(kvmod_scorer, pooling, 88),
	AT(kvmod_scorer, said_raised, 92),
	AT(kvmod_scorer, loss, 96),
	AT(kvmod_scorer, replay_rows, 104),
	AT(kvmod_scorer, store, 112),
	AT(kvmod_scorer, said_level, 116),
	SIZE(kvmod_layers, 40),
	AT(kvmod_layers, size, 0),
	AT(kvmod_layers, n_layers, 4),
	AT(kvmod_layers, budget, 8),
	AT(kvmod_layers, segments, 16),
	AT(kvmod_layers, n_scored, 24),
	AT(kvmod_layers, sums, 32),
	SIZE(kvmod_scorer_ops, 160),
	AT(kvmod_scorer_ops, size, 0),
	AT(kvmod_scorer_ops, reserved, 4),
	AT(kvmod_scorer_ops, score, 8),
	AT(kvmod_scorer_ops, select, 16),
	AT(kvmod_scorer_ops, what, 20),
	AT(kvmod_scorer_ops, rows, 24),
	AT(kvmod_scorer_ops, flags, 28),
	AT(kvmod_scorer_ops, floats, 32),
	AT(kvmod_scorer_ops, share, 40),
	AT(kvmod_scorer_ops, open, 48),
	AT(kvmod_scorer_ops, keep, 56),
	AT(kvmod_scorer_ops, budget, 64),
	AT(kvmod_scorer_ops, first, 72),
	AT(kvmod_scorer_ops, spread, 80),
	AT(kvmod_scorer_ops, n_sums, 88),
	AT(kvmod_scorer_ops, reserved3, 92),
	AT(kvmod_scorer_ops, cuts, 96),
	AT(kvmod_scorer_ops, prepare, 104),
	AT(kvmod_scorer_ops, prepared_floats, 112),
	AT(kvmod_scorer_ops, needs, 120),
	AT(kvmod_scorer_ops, least, 128),
	AT(kvmod_scorer_ops, level_at, 136),
	AT(kvmod_scorer_ops, n_levels, 144),
	AT(kvmod_scorer_ops, reserved4, 148),
	AT(kvmod_scorer_ops, loss, 152),

	SIZE(kvmod_task, 112),
	AT(kvmod_task, size, 0),
	AT(kvmod_task, i, 4),
	AT(kvmod_task, g, 8),
	AT(kvmod_task, n, 12),
	AT(kvmod_task, m, 16),
	AT(kvmod_task, group, 20),
	AT(kvmod_task, kit, 24),
	AT(kvmod_task, request, 32),
	AT(kvmod_task, segment, 40),
	AT(kvmod_task, head, 48),
	AT(kvmod_task, keep, 56),
	AT(kvmod_task, scratch, 64),
	AT(kvmod_task, work, 72),
	AT(kvmod_task, budget, 80),
	AT(kvmod_task, notes, 88),
	AT(kvmod_task, sums, 96),
	AT(kvmod_task, prepared, 104),
	SIZE(kvmod_stats, 40),
	AT(kvmod_stats, size, 0),
	AT(kvmod_stats, reserved, 4),
	AT(kvmod_stats, mean, 8),
	AT(kvmod_stats, variance, 16),
	AT(kvmod_stats, smallest, 24),
	AT(kvmod_stats, largest, 32),
	SIZE(kvmod_toolkit, 312),
	AT(kvmod_toolkit, size, 0),
	AT(kvmod_toolkit, reserved, 4),
	AT(kvmod_toolkit, rows, 8),
	AT(kvmod_toolkit, dots, 16),
	AT(kvmod_toolkit, norms, 24),
	AT(kvmod_toolkit, sum, 32),
	AT(kvmod_toolkit, stats, 40),
	AT(kvmod_toolkit, queries, 48),
	AT(kvmod_toolkit, logits, 56),
	AT(kvmod_toolkit, softmax, 64),
	AT(kvmod_toolkit, last_attention, 72),
	AT(kvmod_toolkit, mean_attention, 80),
	AT(kvmod_toolkit, window_scores, 88),
	AT(kvmod_toolkit, pool, 96),
	AT(kvmod_toolkit, mark_heaviest, 104),
	AT(kvmod_toolkit, mark_mass, 112),
	AT(kvmod_toolkit, keep_whole, 120),
	AT(kvmod_toolkit, keep_heaviest, 128),
	AT(kvmod_toolkit, keep_marked, 136),
	AT(kvmod_toolkit, keep_listed, 144),
	AT(kvmod_toolkit, scratch_bytes, 152),
	AT(kvmod_toolkit, each_head, 160),
	AT(kvmod_toolkit, fail, 168),
	AT(kvmod_toolkit, parts_bytes, 176),
	AT(kvmod_toolkit, parts_open, 184),
	AT(kvmod_toolkit, parts_scan, 192),
	AT(kvmod_toolkit, parts_total, 200),
	AT(kvmod_toolkit, parts_shares, 208),
	AT(kvmod_toolkit, parts_add, 216),
	AT(kvmod_toolkit, scorer_open, 224),
	AT(kvmod_toolkit, scorer_needs, 232),
	AT(kvmod_toolkit, scorer_workspace, 240),
	AT(kvmod_toolkit, scorer_compress, 248),
	AT(kvmod_toolkit, each_row, 256),
	AT(kvmod_toolkit, wo_norms, 264),
	AT(kvmod_toolkit, total, 272),
	AT(kvmod_toolkit, entropy, 280),
	AT(kvmod_toolkit, moments, 288),
	AT(kvmod_toolkit, max_attention, 296),
	AT(kvmod_toolkit, quadratic, 304),
};

START_TEST(layout)
{
	for (size_t i = 0; i < sizeof(pins) / sizeof(*pins); i++)
		ck_assert_msg(pins[i].is == pins[i].was, "%s is %zu, was %zu", pins[i].what,
			      pins[i].is, pins[i].was);
}
END_TEST
#endif

/* A multiple of 32 elements; of a type that nobody knows nothing is. */
START_TEST(sizes_of_rows)
{
	ck_assert_uint_eq(kvmod_row_bytes(KVMOD_F32, 64), 256);
	ck_assert_uint_eq(kvmod_row_bytes(KVMOD_F16, 64), 128);
	ck_assert_uint_eq(kvmod_row_bytes(KVMOD_BF16, 64), 128);
	ck_assert_uint_eq(kvmod_row_bytes(KVMOD_Q8_0, 64), 68);
	ck_assert_uint_eq(kvmod_row_bytes(KVMOD_Q4_0, 64), 36);
	ck_assert_uint_eq(kvmod_row_bytes(KVMOD_Q4_0 + 1, 64), 0);
	ck_assert_uint_eq(kvmod_block_size(KVMOD_F32), 1);
	ck_assert_uint_eq(kvmod_block_size(KVMOD_Q8_0), 32);
	ck_assert_uint_eq(kvmod_block_size(KVMOD_Q4_0), 32);
	ck_assert_uint_eq(kvmod_block_size(0), 0);
}
END_TEST

/* What `store` stands for, in [kvmod] and in policies. */
START_TEST(stores)
{
	uint32_t k, v;

	kvmod_stores_of(KVMOD_STORES_SAME, &k, &v);
	ck_assert_uint_eq(k, KVMOD_STORE_SAME);
	ck_assert_uint_eq(v, KVMOD_STORE_SAME);
	kvmod_stores_of(KVMOD_STORES_Q8, &k, &v);
	ck_assert_uint_eq(k, KVMOD_Q8_0);
	ck_assert_uint_eq(v, KVMOD_Q8_0);
	kvmod_stores_of(KVMOD_STORES_Q8_Q4, &k, &v);
	ck_assert_uint_eq(k, KVMOD_Q8_0);
	ck_assert_uint_eq(v, KVMOD_Q4_0);
}
END_TEST

/* Codes and numbers that compiled modules hold. */
START_TEST(numbers)
{
	ck_assert_uint_eq(KVMOD_MAGIC, 0x646f6d76);
	ck_assert_int_eq(KVMOD_ABI_MAJOR, 2);
	ck_assert_int_eq(KVMOD_EINVAL, -1);
	ck_assert_int_eq(KVMOD_ENOMEM, -2);
	ck_assert_int_eq(KVMOD_ENOENT, -3);
	ck_assert_int_eq(KVMOD_EEXIST, -4);
	ck_assert_int_eq(KVMOD_EPERM, -5);
	ck_assert_int_eq(KVMOD_EFORMAT, -6);
	ck_assert_int_eq(KVMOD_EABI, -7);
	ck_assert_int_eq(KVMOD_ENOTSUP, -8);
	ck_assert_int_eq(KVMOD_EIO, -9);
	ck_assert_int_eq(KVMOD_ERANGE, -10);
	ck_assert_int_eq(KVMOD_ENUMERIC, -11);
	ck_assert_int_eq(KVMOD_EPLAN, -12);
	ck_assert_int_eq(KVMOD_EBUSY, -13);
	ck_assert_int_eq(KVMOD_ECANCELED, -14);
	ck_assert_int_eq(KVMOD_EDEVICE, -15);
	ck_assert_int_eq(KVMOD_ETIMEOUT, -16);
	ck_assert_int_eq(KVMOD_ECRASH, -17);
	ck_assert_uint_eq(KVMOD_F32, 1);
	ck_assert_uint_eq(KVMOD_F16, 2);
	ck_assert_uint_eq(KVMOD_BF16, 3);
	ck_assert_uint_eq(KVMOD_Q8_0, 4);
	ck_assert_uint_eq(KVMOD_Q4_0, 5);
	ck_assert_uint_eq(KVMOD_STORE_SAME, 0);
	ck_assert_int_eq(KVMOD_STORES_SAME, 0);
	ck_assert_int_eq(KVMOD_STORES_Q8, 1);
	ck_assert_int_eq(KVMOD_STORES_Q8_Q4, 2);
	ck_assert_uint_eq(KVMOD_ENGINE_CLOSES_GAPS, 1);
	ck_assert_uint_eq(KVMOD_ENGINE_WHOLE, 2);
	ck_assert_uint_eq(KVMOD_ENGINE_STORES, 4);
	ck_assert_uint_eq(KVMOD_PROMPT_KEEP, 1);
	ck_assert_uint_eq(KVMOD_PROMPT_CONTEXT, 2);
	ck_assert_uint_eq(KVMOD_CHAT_WHOLE, 0);
	ck_assert_uint_eq(KVMOD_CHAT_CONTEXT, 1);
	ck_assert_uint_eq(KVMOD_CHAT_QUESTION, 2);
	ck_assert_uint_eq(KVMOD_KEEP_ALL, 0);
	ck_assert_uint_eq(KVMOD_KEEP_SPANS, 1);
	ck_assert_uint_eq(KVMOD_KEEP_HEADS, 2);
	ck_assert_uint_eq(KVMOD_PARAM_BOOL, 1);
	ck_assert_uint_eq(KVMOD_PARAM_INT, 2);
	ck_assert_uint_eq(KVMOD_PARAM_REAL, 3);
	ck_assert_uint_eq(KVMOD_PARAM_AMOUNT, 4);
	ck_assert_uint_eq(KVMOD_PARAM_LIST, 5);
	ck_assert_uint_eq(KVMOD_PARAM_CHOICE, 6);
	ck_assert_uint_eq(KVMOD_PARAM_STRING, 7);
	ck_assert_uint_eq(KVMOD_PARAM_PATH, 8);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("abi");
	TCase *tcase = tcase_create("abi");
	SRunner *runner = srunner_create(suite);
	int failed;

#if UINTPTR_MAX == UINT64_MAX
	tcase_add_test(tcase, layout);
#endif
	tcase_add_test(tcase, sizes_of_rows);
	tcase_add_test(tcase, stores);
	tcase_add_test(tcase, numbers);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
