#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Times ReFreeKV's decision on a GPU in three ways, with one row of queries, positions ranked
by position, and the norm over the ranked positions:

  authors   the way of the authors' code: layer by layer, with the KV heads repeated to
            query heads, the whole last row of attention, cumulative sums, and the count
            read back to the host for each layer. Their cache holds the keys already
            repeated, so the time without the repetition is printed too.
  native    careful PyTorch: the KV heads as they are, all layers in one batch, float32
            from the logits on, and one read back to the host.
  kvmod     kvmod bench decision --device cuda.

The first two get the same made-up keys; their counts differ where the authors' logits, a
product of two bf16 tensors, are rounded to bf16. Both are first compared with the golden
vectors, as kvmod's tests do for kvmod, which makes up other keys here by the same recipe.
Without PyTorch or a GPU, the program gives the reason and exits with 77.
"""
import argparse
import json
import statistics
import subprocess
import sys


def skip(why):
    print("SKIP:", why)
    sys.exit(77)


try:
    import torch
except ImportError as e:
    skip(f"no PyTorch: {e}")

# --- the two ways ------------------------------------------------------------------


def cut(attention, threshold, sinks):
    """[..., heads, n] float32 -> how many of the newest to keep, and the loss there."""
    ranked = attention[..., sinks:].flip(-1)
    norm = ranked.square().cumsum(-1).sqrt().mean(-2)
    full = norm[..., -1:]
    loss = (full - norm) / full
    first = (loss <= threshold).int().argmax(-1)
    return first + 1, loss.gather(-1, first.unsqueeze(-1)).squeeze(-1)


def repeat_keys(k, times):
    """[G, n, D] -> [G * times, n, D], in memory."""
    return k[:, None].expand(-1, times, -1, -1).reshape(-1, *k.shape[1:])


def authors_layer(q, repeated, threshold, sinks):
    logits = torch.matmul(q[:, None], repeated.transpose(-1, -2)).squeeze(1)
    attention = torch.softmax(logits.float() * q.shape[-1] ** -0.5, -1)
    count, loss = cut(attention, threshold, sinks)
    return count.item(), loss.item()


def authors(q, k, threshold, sinks):
    """q [L, H, D], k [L, G, n, D]."""
    times = q.shape[1] // k.shape[1]
    return [authors_layer(ql, repeat_keys(kl, times), threshold, sinks) for ql, kl in zip(q, k)]


def authors_repeated(q, repeated, threshold, sinks):
    """The same where the cache is repeated beforehand: [H, n, D] for each layer."""
    return [authors_layer(ql, kl, threshold, sinks) for ql, kl in zip(q, repeated)]


def logits_of(q, k):
    """float32 products; where torch can, without keys in float32."""
    if q.dtype == torch.float32:
        return torch.bmm(q, k)
    try:
        return torch.bmm(q, k, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return torch.bmm(q.float(), k.float())


def native(q, k, threshold, sinks):
    layers, heads, dim = q.shape
    groups, n = k.shape[1:3]
    logits = logits_of(q.reshape(layers * groups, heads // groups, dim),
                       k.reshape(layers * groups, n, dim).transpose(-1, -2))
    attention = torch.softmax(logits.view(layers, heads, n) * dim ** -0.5, -1)
    count, loss = cut(attention, threshold, sinks)
    return list(zip(count.tolist(), loss.tolist()))


ROUNDING = 1e-6     # of a loss in float32: the difference of two numbers near 1

# --- golden vectors -----------------------------------------------------------------


def fields(line):
    return dict(part.split("=") for part in line.split()[1:])


def read_cases(path):
    case = {}
    with open(path, encoding="ascii") as f:
        for line in f:
            key = line.split(maxsplit=1)[0] if line.split() else ""
            if key == "case":
                case = {"name": line.split()[1]}
            elif key in ("shape", "params", "expect"):
                case |= fields(line)
            elif key in ("q", "k"):
                case[key] = torch.tensor([float(x) for x in line.split()[1:]])
            elif key == "end":
                yield case


def check_case(case, ways):
    n, heads, groups, dim, sinks = (int(case[x]) for x in
                                    ("n", "q_heads", "kv_heads", "head_dim", "sinks"))
    q = case["q"].view(1, heads, dim).cuda()
    k = case["k"].view(n, groups, dim).transpose(0, 1)[None].contiguous().cuda()
    for way in ways:
        count, loss = way(q, k, float(case["threshold"]), sinks)[0]
        kept = sinks + max(count, int(case["recent"]))
        if kept != int(case["keep"]) or abs(loss - float(case["loss"])) > ROUNDING:
            sys.exit(f"{case['name']}: {way.__name__} keeps {kept} at a loss of {loss}, "
                     f"expected {case['keep']} at {case['loss']}")


def check_golden(path):
    n = left = 0
    for case in read_cases(path):
        plain = case["rows"] == "1" and case["norm_scope"] == "ranked" and float(case["threshold"]) > 0
        if not plain or int(case["n"]) <= int(case["sinks"]) + int(case["recent"]):
            left += 1
            continue
        check_case(case, (authors, native))
        n += 1
    if not n:
        sys.exit(f"{path}: no case for these two")
    print(f"golden vectors: authors and native keep what {n} cases expect; "
          f"{left} with more rows, another norm or nothing to cut were left out")


# --- timing ---------------------------------------------------------------------------


def make(o, n):
    """Keys of which some, like the sinks and the newest, are like the queries."""
    torch.manual_seed(n)
    q = torch.empty(o.layers, o.q_heads, o.head_dim, device="cuda")
    k = torch.empty(o.layers, o.kv_heads, n, o.head_dim, device="cuda", dtype=torch.bfloat16)
    direction = torch.randn(o.head_dim, device="cuda")
    at = torch.arange(n, device="cuda")
    for layer in range(o.layers):
        oldest = torch.randint(n, (), device="cuda")
        lot = torch.rand(o.kv_heads, n, device="cuda") < 1 / 512
        liked = (at < 2) | (at + 32 >= n) | (lot & (at >= oldest))
        q[layer] = direction + 0.5 * torch.randn(o.q_heads, o.head_dim, device="cuda")
        k[layer] = torch.randn(o.kv_heads, n, o.head_dim, device="cuda") + \
            0.7 * liked[..., None] * direction
    return q.bfloat16(), k


def milliseconds(rounds, fn, *args):
    """The median by the GPU's clock."""
    times = []
    for i in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        answer = fn(*args)
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    return statistics.median(times), answer


def run_kvmod(o):
    """Of each length: milliseconds, the caller's, the read's, and the share kept."""
    command = [o.kvmod, "bench", "decision", "--device", "cuda", "--json", "--policy", "refreekv",
               "-o", f"policy refreekv.threshold={o.threshold}",
               "-o", f"policy refreekv.sinks={o.sinks}", "-o", "policy refreekv.whole_layers=0",
               "--dtype", "bf16", "--layers", str(o.layers), "--q-heads", str(o.q_heads),
               "--kv-heads", str(o.kv_heads), "--head-dim", str(o.head_dim),
               "--rounds", str(o.rounds), "--lengths", ",".join(map(str, o.lengths))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as e:
        skip(f"{o.kvmod}: {e}")
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return {c["length"]: c for c in json.loads(done.stdout)["comparisons"]}


def share(answer, o, n):
    return sum(o.sinks + count for count, _ in answer) / (len(answer) * n)


def compare(o, n, ours):
    q, k = make(o, n)
    a_ms, a = milliseconds(o.rounds, authors, q, k, o.threshold, o.sinks)
    times = o.q_heads // o.kv_heads
    if k.numel() * k.element_size() * (times + 1) < 0.8 * torch.cuda.mem_get_info()[0]:
        r_ms, _ = milliseconds(o.rounds, authors_repeated, q, [repeat_keys(x, times) for x in k],
                               o.threshold, o.sinks)
        repeated = f"{r_ms:.3f}"
    else:
        repeated = "no room"
    b_ms, b = milliseconds(o.rounds, native, q, k, o.threshold, o.sinks)
    same = sum(x[0] == y[0] for x, y in zip(a, b))
    ms = ours["decision_ms"]["median"]
    print(f"{n:<10} {a_ms:10.3f} {repeated:>12} {b_ms:10.3f} {ms:10.4f} {ours['wall_ms']['median']:10.4f} "
          f"{ours['rival_ms']['median']:10.4f} {a_ms / ms:8.1f}x {b_ms / ms:8.1f}x  "
          f"{same} of {o.layers}; {100 * share(a, o, n):.1f}%, {100 * ours['budget']:.1f}%", flush=True)


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kvmod", default="./kvmod", help="the program (./kvmod)")
    p.add_argument("--golden", help="tests/golden/refreekv.txt: compare both ways with it first")
    p.add_argument("--layers", type=int, default=32)
    p.add_argument("--q-heads", type=int, default=32)
    p.add_argument("--kv-heads", type=int, default=8)
    p.add_argument("--head-dim", type=int, default=128)
    p.add_argument("--lengths", type=lambda s: [int(x) for x in s.split(",")], default=[8192, 32768])
    p.add_argument("--threshold", type=float, default=0.01)
    p.add_argument("--sinks", type=int, default=4)
    p.add_argument("--rounds", type=int, default=9)
    return p.parse_args()


def main():
    o = options()
    if not torch.cuda.is_available():
        skip("no GPU that PyTorch can use")
    if o.golden:
        check_golden(o.golden)
    ours = run_kvmod(o)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; {o.layers} layers, "
          f"{o.q_heads} query heads on {o.kv_heads} KV heads of {o.head_dim}, bf16; medians of "
          f"{o.rounds}, in ms")
    print(f"{'POSITIONS':10} {'AUTHORS':>10} {'K REPEATED':>12} {'NATIVE':>10} {'KVMOD':>10} {'WALL':>10} "
          f"{'READ':>10} {'AUTHORS/':>9} {'NATIVE/':>9}  SAME COUNTS; KEPT")
    for n in o.lengths:
        compare(o, n, ours[n])


main()
