#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's flash attention for the shapes of bench_reductions, in us.

Needs PyTorch and a GPU. Keys and values of query heads that share them are given once
(enable_gqa), and no mask is given: rows see all positions, so this is the least work.
Beside it, the same with a mask, for which PyTorch takes another kernel.
"""
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention


def median(call, runs=15):
    times = []
    for i in range(runs + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    return sorted(times)[runs // 2] * 1000


def time_one(n, rows, n_q_heads, n_kv_heads, dim):
    def make(*shape):
        return torch.rand(shape, dtype=torch.float16, device="cuda") * 2 - 1

    q, k, v = make(1, n_q_heads, rows, dim) * 3, make(1, n_kv_heads, n, dim), make(1, n_kv_heads, n, dim)
    text = f"flash {n:7} x {rows:4} rows {n_q_heads}/{n_kv_heads} {dim:3}:"
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                us = median(lambda: attention(q, k, v, enable_gqa=True))
            text += f" {name} {us:9.1f} us, {4e-6 * n * rows * n_q_heads * dim / us:5.1f} TFLOP/s;"
        except RuntimeError:
            text += f" {name} cannot;"
    mask = torch.ones(rows, n, dtype=torch.bool, device="cuda").tril(n - rows)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        whole_k, whole_v = (x.repeat_interleave(n_q_heads // n_kv_heads, 1) for x in (k, v))
        us = median(lambda: attention(q, whole_k, whole_v, attn_mask=mask))
    print(text, f"with a mask {us:9.1f} us")


def main():
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    for n in (512, 2048, 8192, 10000, 32768, 131072):
        time_one(n, 512, 32, 8, 128)
    time_one(8192, 512, 14, 2, 64)
    time_one(8192, 512, 16, 8, 256)
    for n in (8192, 32768, 131072):
        time_one(n, 1, 32, 8, 128)
    time_one(8192, 16, 32, 8, 128)
    time_one(32768, 64, 32, 8, 128)


main()
