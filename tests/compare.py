#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares policies: what each keeps of the cache, and what that costs.

Runs `kvmod run --compare --json` for each policy on each prompt of JSONL files (id, prompt
and, for --context-first, question_at: the character where the question begins), and prints
a line for each policy: the share of the full cache's bytes, and the KL divergence from the
full cache, its mean over all prompts and that of the worst prompt, in nats.

  tests/compare.py --kvmod build/kvmod --data FILE.jsonl --prompts 4 \\
      snapkv:budget=20% adakv:budget=20% refreekv
"""
import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile


def read_prompts(paths, n, context_first):
    """The first n prompts of each file; all, if n is 0."""
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            prompts = [json.loads(line) for line in lines if line.strip()]
        if context_first:
            prompts = [p for p in prompts if "question_at" in p]
        step = max(1, len(prompts) // n) if n else 1
        yield from prompts[::step][:n or None]


def overrides(policy):
    """`name:key=value,key=value` as arguments of kvmod."""
    name, _, params = policy.partition(":")
    args = ["--policy", name]
    for param in filter(None, params.split(",")):
        args += ["-o", f"policy {name}.{param}"]
    return args


def run(args, policy, prompt):
    command = [args.kvmod, "run", "--json", "--compare", "-n", str(args.tokens), *overrides(policy)]
    for override in args.override:
        command += ["-o", override]
    if args.model:
        command += ["--model", args.model]
    text, at = prompt["prompt"], prompt.get("question_at")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(text[:at] if args.context_first else text)
        file.flush()
        if args.context_first:
            command += ["--context", file.name, "--", text[at:]]
        else:
            command += ["-f", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{policy} on {prompt['id']}: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    result.pop("kept", None)
    return {"id": prompt["id"], "choice": policy, **result,
            "log": [line for line in done.stderr.splitlines() if "prefill" not in line]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", metavar="POLICY[:KEY=VALUE,...]")
    parser.add_argument("--kvmod", default="./kvmod")
    parser.add_argument("--model", help="a GGUF file; the configured one if not given")
    parser.add_argument("--data", nargs="+", required=True, type=pathlib.Path)
    parser.add_argument("--prompts", type=int, default=0, help="of each file, evenly spaced; 0: all")
    parser.add_argument("--context-first", action="store_true",
                        help="the cache is cut before the question is known")
    parser.add_argument("--tokens", type=int, default=48, help="forced tokens")
    parser.add_argument("-o", dest="override", action="append", default=[], metavar="S.KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--results", type=pathlib.Path, help="append each run's JSON to this file")
    args = parser.parse_args()

    prompts = list(read_prompts(args.data, args.prompts, args.context_first))
    work = [(policy, prompt) for policy in args.policies for prompt in prompts]
    failed = 0
    found = {policy: [] for policy in args.policies}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(run, args, policy, prompt) for policy, prompt in work]
        for done in runs:
            try:
                result = done.result()
            except (RuntimeError, ValueError) as error:
                print(f"compare.py: {error}", file=sys.stderr)
                failed = 1
                continue
            found[result["choice"]].append(result)
            if args.results:
                with open(args.results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
    print("| policy | bytes | mean KL | worst | prompts |")
    print("| --- | --- | --- | --- | --- |")
    for policy, results in found.items():
        if not results:
            continue
        cuts = [r.get("context", r) for r in results]  # what the policy cut
        share = sum(c["cache_bytes"] / c["cache_bytes_full"] for c in cuts) / len(cuts)
        kl = [r["kl_mean"] for r in results]
        print(f"| {policy} | {share:.1%} | {sum(kl) / len(kl):.3f} | {max(kl):.2f} | {len(results)} |")
    return failed


if __name__ == "__main__":
    sys.exit(main())
