#!/usr/bin/env python3
"""Fills the tables of README.md and docs/*.md from bench/results/*.json, between <!-- table:NAME --> and <!-- end -->.

NAME is the file's stem, or one that draws on several files (TABLES). What a file holds decides its table:
`moe4 bench --json`, `moe4 bench-moe --json`, or the GPU benchmark's report. A table without its file says so instead
of keeping stale numbers.
Usage: scripts/make_tables.py [--check]   (--check: exit 1 when a page is not up to date)
"""
import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def rate(entry):
    return f"{entry['tokens_per_second']:.0f} ± {entry['deviation']:.0f}" if entry else "-"


def model_table(report):
    """`moe4 bench --json`: speed and perplexity per backend and activation mode."""
    rows = []
    for r in report["results"]:
        gbs = r["gb_per_token"] * r.get("generation", {}).get("tokens_per_second", 0)
        rows.append([r["backend"], r["activations"], rate(r.get("prompt")), rate(r.get("generation")),
                     f"{r['gb_per_token']:.5f}", f"{gbs:.2f}",
                     f"{r['perplexity']:.3f}" if "perplexity" in r else "-"])
    header = ["backend", "activations", "prompt tok/s", "generation tok/s", "GB/token", "GB/s", "perplexity"]
    note = f"{report['threads']} threads, {report['dtype']}, memory reads at {report['memory_read_gbs']:.1f} GB/s"
    return f"{note}\n\n{markdown(header, rows)}"


def requests_table(report):
    """`moe4 bench --requests --json`: many requests at once. The file also says device_name, commit and command."""
    rows = [[t["requests"], rate(t), f"{t['tokens_per_second'] / t['requests']:.1f}", f"{t['longest_pause_ms']:.0f}",
             f"{t['prompt_tokens_per_second']:.0f}"] for r in report["results"] for t in r["together"]]
    first = report["results"][0]
    pause = f"longest pause ms as {first['prompt']['tokens']} prompt tokens come in"
    header = ["requests", "tok/s of all", "tok/s of each", pause, "their tok/s"]
    note = (f"{report['device_name']}, commit {report['commit']}, {report['threads']} threads, {first['generation']['tokens']} tokens a "
            f"request, {report['chunk']} prompt tokens a step; one prompt alone {first['prompt']['tokens_per_second']:.0f} tok/s")
    return f"{note}\n\n{markdown(header, rows)}"


def model_runs_table(report):
    """Runs of `moe4 bench --json` of one full-size synthetic model on a GPU."""
    rows = []
    for run in report["model_runs"]:
        r, of = run["report"]["results"][0], run["report"]
        if "prompt" in r:
            rows.append([f"prompt of {r['prompt']['tokens']}", "-", rate(r["prompt"]), f"`{run['command']}`"])
        if "generation" in r:
            rows.append(["generation, 1 request", of["depth"], rate(r["generation"]), f"`{run['command']}`"])
        for t in r.get("together", []):
            rows.append([f"generation, {t['requests']} requests", of["depth"], rate(t), f"`{run['command']}`"])
    note = f"{report['device_name']}, commit {report['commit']}, `{report['synthetic']}`, as released in size"
    return f"{note}\n\n{markdown(['what', 'tokens of context before', 'tok/s', 'command'], rows)}"


def gpu_families_table():
    """Synthetic models of published sizes on a GPU, a file each, against what memory allows."""
    reports = [r for r in (json.loads(p.read_text()) for p in sorted((ROOT / "bench/results").glob("*-model-*.json"))) if "family_run" in r]
    if not reports:
        return "Not measured yet."
    rows = []
    for r in reports:
        of, result_of = r["family_run"]["report"], r["family_run"]["report"]["results"][0]
        cells = [r["preset"], r["of"], f"{of['tensor_bytes'] * 1e-9:.1f}", rate(result_of["prompt"])]
        for limit in r["limits"]:
            cells += [f"{limit['tokens_per_second']:.0f}", f"{limit['gb_a_step']:.2f}", f"{limit['limit_tokens_per_second']:.0f}",
                      f"{100 * limit['share_of_limit']:.0f} %"]
        rows.append(cells)
    first = reports[0]
    header = ["model", "layers", "GB", f"prompt of {first['family_run']['report']['results'][0]['prompt']['tokens']}, tok/s"]
    for limit in first["limits"]:
        header += [f"{limit['seqs']} sequence{'s' if limit['seqs'] > 1 else ''}, tok/s", "GB a step", "limit, tok/s", "share"]
    commits = ", ".join(dict.fromkeys(r["commit"] for r in reports))
    speeds = ", ".join(dict.fromkeys(f"{r['read_gbs']:.0f}" for r in reports))
    note = (f"{first['device_name']}, commit {commits}, limits at {speeds} GB/s (a cold read of 286 MB in the same visit),\n"
            f"`{first['family_run']['command'].replace(first['preset'], 'MODEL')}`")
    return f"{note}\n\n{markdown(header, rows)}"


def memory_table(report):
    """Loading and memory: `moe4 bench --json` of a checkpoint with its experts in several places."""
    rows = []
    for run in report["memory_runs"]:
        of, r = run["report"], run["report"]["results"][0]
        rows.append([run["what"], f"{r['load_seconds']:.1f}", f"{of['tensor_bytes'] * 1e-9 / r['load_seconds']:.1f}",
                     f"{of['peak_host_bytes'] * 1e-9:.2f}", f"{r['peak_device_bytes'] * 1e-9:.2f}", rate(r.get("prompt")),
                     rate(r.get("generation")), f"`{run['command']}`"])
    first = report["memory_runs"][0]["report"]
    note = (f"{report['device_name']}, commit {report['commit']}, `{report['synthetic']}`, {first['tensor_bytes'] * 1e-9:.1f} GB in "
            f"files that are in the page cache, {first['threads']} threads")
    header = ["experts", "seconds to load", "GB/s", "most host memory, GB", "most GPU memory, GB",
              f"prompt of {first['results'][0]['prompt']['tokens']}, tok/s", "generation, tok/s", "command"]
    return f"{note}\n\n{markdown(header, rows)}"


def steps_table(report):
    """Kernels of steps of generated tokens: scripts/kernel_table.py --json of several, with bytes and floor a row."""
    parts = [f"{report['device_name']}, commit {report['commit']}, `{report['synthetic']}`, as released in size"]
    for step in report["model_steps"]:
        rows = [[k["op"], k["kernel"], k["launches"], f"{k['us']:.1f}", f"{k['waiting_us']:.1f}",
                 f"{k['bytes'] * 1e-6:.1f}" if "bytes" in k else "", f"{k['floor_us']:.1f}" if "bytes" in k else ""]
                for k in step["kernels"]]
        total = [sum(k.get(key, 0) for k in step["kernels"]) for key in ("launches", "us", "waiting_us", "bytes", "floor_us")]
        rows.append(["all", "", total[0], f"{total[1]:.1f}", f"{total[2]:.1f}", f"{total[3] * 1e-6:.1f}", f"{total[4]:.1f}"])
        parts.append(f"{step['seqs']} {'requests' if step['seqs'] > 1 else 'request'}, {step['context']} tokens of context: "
                     f"{step['step_us']:.0f} us a step; floors at {step['gbs']:.0f} GB/s, {report['gbs_from']}")
        parts.append(markdown(["op", "kernel", "launches", "us of the step", "of them waiting", "MB", "floor us"], rows))
    return "\n\n".join(parts)


def served_table(report):
    """`moe4 bench serve --json` at several numbers of clients. Times to tokens only where each token was a chunk of text."""
    times = {f"{name.upper()} ms, median / p99": name for name in ("ttft", "itl") if report.get("every_token_streamed")}
    alone = {r["max_concurrency"]: r["output_tokens_per_second"] for r in report.get("engine_runs", [])}
    def of_engine(r):
        tokens = alone.get(r["max_concurrency"])
        return [f"{tokens:.0f} ({100 * r['output_throughput'] / tokens:.0f} %)" if tokens else "-"] if alone else []
    rows = [[r["max_concurrency"], r["completed"], r["failed"], f"{r['total_input_tokens'] / r['num_prompts']:.0f}",
             f"{r['total_output_tokens'] / r['num_prompts']:.0f}", f"{r['output_throughput']:.0f}", *of_engine(r),
             f"{r['total_token_throughput']:.0f}",
             *(f"{r[f'median_{name}_ms']:.1f} / {r[f'p99_{name}_ms']:.1f}" for name in times.values())]
            for r in report["served_runs"]]
    note = f"{report['device_name']}, commit {report['commit']}, `{report['synthetic']}`, `{report['server']}`,\n`{report['command']}`"
    if alone:
        note += f",\nthe engine alone: `{report['engine_command']}`"
    header = ["clients", "requests", "failed", "tokens of a prompt, mean", "of an answer, mean", "answers, tok/s",
              *(["of the engine alone, tok/s (share)"] if alone else []), "with prompts, tok/s", *times]
    return f"{note}\n\n{markdown(header, rows)}"


def layer_table(report):
    """`moe4 bench-moe --json`: one layer on the CPU against the ceilings of the same run."""
    ceilings = report["ceilings"]
    rows = []
    for r in report["rows"]:
        if "rejected" in r:
            continue
        reads = r.get("dram_read_gbs", ceilings["dram_read_gbs"])  # measured just before and after the row
        # Both modes multiply int8; a 16-bit input is two of them (docs/cpu-kernels.md).
        peak = ceilings["int8_gops"] / (2 if r["activations"] == "bf16" else 1)
        rows.append([r["backend"], r["activations"], r["tokens"], f"{r['median_ms']:.3f}", f"{r['min_ms']:.3f}",
                     f"{r['weight_gbs']:.1f}", f"{100 * r['weight_gbs'] / reads:.0f}%",
                     f"{r['gops']:.0f}", f"{100 * r['gops'] / peak:.0f}%", f"{r['median_over_roof2']:.2f}",
                     f"{r['relative_error']:.1e}"])
    header = ["backend", "activations", "tokens", "median ms", "min ms", "GB/s", "of memory reads", "GOP/s",
              "of peak", "time / roof", "error"]
    note = (f"H {report['hidden_size']}, I {report['intermediate_size']}, {report['num_experts']} experts, top "
            f"{report['top_k']}; {ceilings['threads']} threads, {ceilings['isa']}; memory reads at "
            f"{ceilings['dram_read_gbs']:.1f} GB/s; peaks in GOP/s: int8 {ceilings['int8_gops']:.0f} (16-bit inputs take two "
            f"products: half of it), int16 {ceilings['int16_gops']:.0f}, FMA {ceilings['fma_gops']:.0f}")
    return f"{note}\n\n{markdown(header, rows)}"


def layers_table(report):
    """Several layers of one machine and commit, as bench/ writes them."""
    head = f"{report['device']}, commit {report['commit']}, weights {'cold' if report['cold'] else 'warm'}"
    return "\n\n".join([head] + [layer_table(layer) for layer in report["layers"]])


def versions_table(report):
    """bench/model/compare_versions.py: whole checkpoints with two builds in turns, and loading."""
    rows = []
    for m in report["models"]:
        for name in ("before", "after"):
            r = m[name]
            rows.append([m["model"], report[f"{name}_commit"], f"{r['prompt']:.0f}", f"{r['generation']:.1f}",
                         f"{r['gb_per_token']:.4f}", f"{r['generation_gbs']:.1f}", f"{100 * r['memory_share']:.0f}%"])
    header = ["checkpoint", "commit", "prompt tok/s", "generation tok/s", "GB/token", "GB/s", "of memory reads"]
    loads = [[m["model"], f"{m['load']['file_bytes'] * 1e-9:.3f}", f"{m['load']['seconds']:.2f}", f"{m['load']['gbs']:.2f}",
              " and ".join(f"{gbs:.2f}" for gbs in m["load"]["plain_read_gbs"]), f"{m['load']['peak_over_file']:.3f}"]
             for m in report["models"] if "load" in m and m["load"]["file_bytes"] > 1e9]
    load_header = ["loading", "file GB", "seconds", "GB/s", "plain read before and after, GB/s", "peak memory / file"]
    return (f"{report['device']}, {report['models'][0]['after']['threads']} threads; medians of {report['rounds']} rounds in "
            f"turns\n\n{markdown(header, rows)}" + (f"\n\n{markdown(load_header, loads)}" if loads else ""))


def clock(row):
    """SM clock while the row was timed; older files do not know it."""
    return f"{row['sm_mhz']:.0f}" if "sm_mhz" in row else "-"


SUSTAINED = ["sustained us", "x sustained floor"]


def sustained(row):
    """After a quarter of a second at the power limit, and beside a ceiling in the same state, unless that was given."""
    return [f"{row['sustained_us']:.1f}", f"{row['sustained_times_floor']:.2f}" if "sustained_times_floor" in row else "-"]


def geometric_mean(ratios):
    return math.prod(ratios) ** (1 / len(ratios))


def section(report, name):
    return next(s for s in report["sections"] if s["name"] == name)


def gpu_layers(name):
    """The reports of GPUs with a section of this name: a file a device and preset, its parts in sections."""
    reports = [json.loads(path.read_text()) for path in sorted((ROOT / "bench" / "results").glob("*.json"))]
    return [r for r in reports if "gpu_layer" in r and any(s["name"] == name for s in r["sections"])]


def gpu_layer_families_table():
    """Layers of other families at their published weights (bench_gpu_layers.py): time and multiple of the floor."""
    reports = [r for r in gpu_layers("layer") if "weights" in r]
    if not reports:
        return "Not measured yet."
    tokens = sorted({row["tokens"] for r in reports for row in section(r, "layer")["rows"]})
    rows = []
    for r in reports:
        sizes, timed = r["gpu_layer"], {row["tokens"]: row for row in section(r, "layer")["rows"]}
        rows.append([r["preset"], f"{sizes['hidden_size']}, {sizes['intermediate_size']}, {sizes['num_experts']}, {sizes['top_k']}",
                     f"{r['weights']}, {r['activation']}"] +
                    [f"{timed[t]['us']:.1f} ({timed[t]['times_floor']:.2f})" if t in timed else "" for t in tokens])
    commits = ", ".join(dict.fromkeys(section(r, "layer")["commit"] for r in reports))
    header = ["layer", "H, I, experts, top", "weights, activation"] + [f"{t} us (x floor)" for t in tokens]
    return f"{reports[0]['device']}, commit {commits}\n\n{markdown(header, rows)}"


def gpu_table(report):
    """The GPU benchmark: microseconds per layer against the floor of the same run."""
    layer = section(report, "layer")
    rows = [[r["tokens"], r["phase"], f"{r['us']:.1f}", f"{r['floor_us']:.1f}", f"{r['times_floor']:.2f}", f"{r['gb_per_s']:.0f}",
             f"{r['tflops']:.0f}", clock(r), f"{r['error']:.1e}", *sustained(r)] for r in layer["rows"]]
    header = ["tokens", "phase", "us", "floor us", "x floor", "GB/s", "TFLOP/s", "SM MHz", "error", *SUSTAINED]
    sizes = report["gpu_layer"]
    note = (f"{report['device']}, {report['preset']} (H {sizes['hidden_size']}, I {sizes['intermediate_size']}, "
            f"{sizes['num_experts']} experts, top {sizes['top_k']}), commit {layer['commit']}")
    return f"{note}\n\n{markdown(header, rows)}"


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def gpu_phases_table():
    """Both phases against calls of no phase before there were phases, in turns."""
    tokens = sorted({r["tokens"] for g in gpu_layers("phases") for r in section(g, "phases")["rows"]})
    rows = []
    for g in gpu_layers("phases"):
        timed = section(g, "phases")["rows"]
        variants = sorted({r["variant"] for r in timed}, reverse=True)  # before, after
        us = [{t: mean(r["us"] for r in timed if r["tokens"] == t and r["variant"] == v) for t in {r["tokens"] for r in timed}}
              for v in variants]
        rows += [[g["preset"], v] + [f"{of[t]:.1f}" if t in of else "" for t in tokens] for v, of in zip(variants, us)]
        rows.append(["", "cost"] + [f"{100 * (us[1][t] / us[0][t] - 1):+.1f} %" if t in us[0] else "" for t in tokens])
    return markdown(["preset", "commit"] + [str(t) for t in tokens], rows)


def gpu_one_token_table():
    """One and two tokens of large layers: runs of K, which only small calls take, against single chains for all."""
    rows = []
    for g in gpu_layers("one_token"):
        timed = section(g, "one_token")["rows"]
        for weights, tokens in dict.fromkeys((r["weights"], r["tokens"]) for r in timed):
            us = {r["variant"]: r["us"] for r in timed if (r["weights"], r["tokens"]) == (weights, tokens)}
            runs = us.pop("runs (no phase)")
            rows.append([g["preset"], weights, tokens, f"{runs:.1f}"] +
                        [f"{us[v]:.1f} ({100 * (us[v] / runs - 1):+.1f} %)" if v in us else "" for v in ("wgmma", "its own kernels")])
    return markdown(["preset", "weights", "tokens", "runs us", "wgmma us", "its own kernels us"], rows)


def gpu_mxfp4_table():
    """MXFP4 weights beside NVFP4, each with the multiple of the floor of its bytes."""
    rows = []
    for g in gpu_layers("mxfp4"):
        nvfp4 = {r["tokens"]: r for r in section(g, "layer")["rows"]}
        for r in section(g, "mxfp4")["rows"]:
            other = nvfp4[r["tokens"]]
            rows.append([g["preset"], r["tokens"], f"{other['us']:.1f} ({other['times_floor']:.2f})",
                         f"{r['us']:.1f} ({r['times_floor']:.2f})"])
    return markdown(["preset", "tokens", "NVFP4 us (x floor)", "MXFP4 us (x floor)"], rows)


def gpu_paths_table():
    """Each path and tile forced: where one ends and the next begins."""
    rows = []
    for g in gpu_layers("paths"):
        timed, sizes = section(g, "paths")["rows"], g["gpu_layer"]
        paths = sorted({r["path"] for r in timed})
        for tokens in sorted({r["tokens"] for r in timed}):
            us = {r["path"]: r["us"] for r in timed if r["tokens"] == tokens}
            rows.append([g["preset"], tokens, f"{tokens * sizes['top_k'] / sizes['num_experts']:.1f}"] +
                        [f"{us[p]:.1f}" if p in us else "" for p in paths])
    return markdown(["preset", "tokens", "mean tokens an expert"] + [f"{p} us" for p in paths], rows)


def gpu_unordered_table():
    """What determinism costs: means of the rounds with and without an order of sums."""
    rows = []
    for g in gpu_layers("unordered"):
        timed = section(g, "unordered")["rows"]
        for tokens in sorted({r["tokens"] for r in timed}):
            us = [mean(r["us"] for r in timed if r["tokens"] == tokens and r["variant"] == v) for v in ("ordered", "unordered")]
            rows.append([g["preset"], tokens, *(f"{x:.1f}" for x in us), f"{100 * (us[0] / us[1] - 1):+.1f} %"])
    return markdown(["preset", "tokens", "ordered us", "unordered us", "cost"], rows)


def peers_table(report):
    """bench/peers/interleave.py: moe4 and ggml in turns, one layer on the CPU."""
    rows = []
    for r in report["rows"]:
        for mine in [name for name in r["times"] if name.startswith("moe4")]:
            peers = [name for name in r["times"] if name.startswith("ggml")]
            ratios = {s["over"]: s["median_ms"] for s in r["speedups"] if s["of"] == mine}
            rows.append([r["tokens"], mine.removeprefix("moe4 "), f"{r['times'][mine]['median_ms']:.2f}"] +
                        [f"{r['times'][peer]['median_ms']:.2f} ({ratios[peer]:.1f} x)" for peer in peers])
    header = ["tokens", "activations", "moe4 ms"] + [f"{peer} ms" for peer in peers]
    note = f"{report['preset']}, {report['device']}, {report['threads']} threads, commit {report['commit']}, ggml {report['ggml_commit']}"
    return f"{note}\n\n{markdown(header, rows)}"


def servers_in_turns_table(report):
    """bench/peers/serve_in_turns.py: moe4 serve and another server under the same load, medians of the rounds."""
    figures = {"TTFT ms": ("median_ttft_ms", 0), "TPOT ms": ("median_tpot_ms", 1), "p99 ITL ms": ("p99_itl_ms", 1),
               "answers, tok/s": ("output_throughput", 1), "with prompts, tok/s": ("total_token_throughput", 0)}
    rows = []
    for r in report["rows_in_turns"]:
        for name in ("moe4", "peer"):
            cells = [f"{r[name][key]:.{digits}f} ({r[name + '_range'][key][0]:.{digits}f} to {r[name + '_range'][key][1]:.{digits}f})"
                     for key, digits in figures.values()]
            rows.append([r["clients"], "moe4" if name == "moe4" else report["peer_name"], *cells])
    others = max(r[name + "_other_cores"] for r in report["rows_in_turns"] for name in ("moe4", "peer"))
    note = (f"{report['device_name']}, {report['threads']} threads, commit {report['commit']}, {report['peer_name']} of "
            f"{report['peer_version']} with {report['peer_weights']}; `{report['synthetic']}`; requests a client: {report['requests']}, "
            f"of {report['input']} tokens with answers of {report['tokens']}, medians of {report['rounds']} rounds (least to most); other programs took "
            f"at most {others:.2f} cores in a run\n\n"
            f"    {report['moe4_command']}\n    {report['peer_command']}")
    return f"{note}\n\n{markdown(['clients', 'server', *figures], rows)}"


def over(peers, choose):
    """Times of other software in multiples of moe4's in the same visit, a row each."""
    return [choose(r["us"]) / r["moe4_us"] for r in peers["rows"]]


def marlin(us):
    return us["Marlin"]


def fastest(us):
    return min(us.values())


def gpu_peers_table(peers):
    """moe4 and vLLM's own layers in one visit to a GPU, with the same weights, tokens and routings."""
    names = list(peers["rows"][0]["us"])
    rows = [[r["shape"], r["tokens"], f"{r['moe4_us']:.1f}"] + [f"{r['us'][n]:.1f} ({r['us'][n] / r['moe4_us']:.2f} x)" for n in names]
            for r in peers["rows"]]
    best = over(peers, fastest)
    note = (f"{peers['peers_on']}, commit {peers['commit']}; geometric mean over {len(rows)} rows: {geometric_mean(over(peers, marlin)):.2f} x "
            f"vLLM's Marlin, {geometric_mean(best):.2f} x the fastest of its three paths, least {min(best):.2f} x")
    return f"{note}\n\n{markdown(['shape', 'tokens', 'moe4 us'] + [f'{n} us' for n in names], rows)}"


def mixers_table(report):
    """What mixes tokens, alone: bench/gpu_delta_net_bench.cc and bench/gpu_attention_bench.cc."""
    rows = []
    for mixer in report["mixers"]:
        for r in mixer["rows"]:
            prompt = r["call"].endswith("p")
            rows.append([mixer["name"], f"`{r['call']}`", f"{r['us']:.1f}", *(["-", "-"] if prompt else
                        [f"{r['floor_us']:.1f}", f"{r['us'] / r['floor_us']:.2f}"])])
    note = f"{report['device']}, commit {report['commit']}, {', '.join('`' + m['command'] + '`' for m in report['mixers'])}"
    return f"{note}\n\n{markdown(['mixer', 'call', 'us', 'floor us', 'x floor'], rows)}"


def sparse_table(report):
    """Of a layer whose indexer chooses keys: what choice and attention take. Floors of prompts' pieces say nothing."""
    rows = []
    for r in report["sparse_calls"]:
        prompt = "p" in r["call"]
        us = lambda key: f"{r[key]:.1f}" if r[key] < 1000 else f"{r[key]:.0f}"
        rows.append([f"`{r['call']}`", us("index_us"), us("choose_us"), "-" if prompt else us("index_floor_us"), us("chosen_us"),
                     us("all_us")])
    header = ["call", "keys of the indexer us", "choice us", "floor us: its keys", "attention over the chosen us", "over all us"]
    return f"{report['device']}, commit {report['commit']} ({report['note']})\n\n{markdown(header, rows)}"


def result(name):
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


def devices_table():
    """The README's: one MoE layer of Qwen3.6-35B-A3B with BF16 activations on each device, against its roof and others."""
    tokens = (1, 64, 1024)
    cpu, peers = result("cpu-zen4-qwen3.6-35b-a3b"), result("cpu-zen4-peer-ggml-qwen3.6-35b-a3b")
    times = {r["tokens"]: r for r in cpu["layers"][0]["rows"] if r["activations"] == "bf16"}
    ratios = [s["median_ms"] for r in peers["rows"] for s in r["speedups"] if s["of"] == "moe4 bf16" and s["over"] == "ggml q4_0"]
    rows = [[cpu["device"]] + [f"{times[t]['median_ms']:.2f} ms ({times[t]['median_over_roof2']:.2f} x)" for t in tokens] +
            [f"{min(ratios):.1f} to {max(ratios):.1f} x ggml's Q4_0"]]
    gpu, peers = result("h200-qwen3.6-35b-a3b"), result("h200-peer-vllm")
    times = {r["tokens"]: r for r in section(gpu, "layer")["rows"]}
    rows.append([gpu["device"]] + [f"{times[t]['us']:.1f} us ({times[t]['times_floor']:.2f} x)" for t in tokens] +
                [f"{geometric_mean(over(peers, marlin)):.2f} x vLLM's Marlin, {geometric_mean(over(peers, fastest)):.2f} x the fastest of its "
                 f"three paths, least {min(over(peers, fastest)):.2f} x"])
    return markdown(["device", *[f"{t} token{'s' if t > 1 else ''}" for t in tokens], "speed in multiples of others"], rows)


TABLES = {"devices": devices_table, "gpu-phases": gpu_phases_table, "gpu-one-token": gpu_one_token_table,
          "gpu-mxfp4": gpu_mxfp4_table, "gpu-families": gpu_families_table, "gpu-layer-families": gpu_layer_families_table,
          "gpu-paths": gpu_paths_table, "gpu-unordered": gpu_unordered_table}


def table_of(name):
    if name in TABLES:
        return TABLES[name]()
    if not (ROOT / "bench" / "results" / f"{name}.json").exists():
        return "Not measured yet."
    report = result(name)
    if "peers_on" in report:
        return gpu_peers_table(report)
    if "ggml_commit" in report:
        return peers_table(report)
    if "results" in report:
        return requests_table(report) if "together" in report["results"][0] else model_table(report)
    if "memory_runs" in report:
        return memory_table(report)
    if "rows_in_turns" in report:
        return servers_in_turns_table(report)
    if "served_runs" in report:
        return served_table(report)
    if "model_steps" in report:
        return steps_table(report)
    if "sparse_calls" in report:
        return sparse_table(report)
    if "mixers" in report:
        return mixers_table(report)
    if "model_runs" in report:
        return model_runs_table(report)
    if "models" in report:
        return versions_table(report)
    if "layers" in report:
        return layers_table(report)
    if "ceilings" in report:
        return layer_table(report)
    return gpu_table(report)


stale = []
for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
    old = page.read_text()
    new = re.sub(r"(<!-- table:([\w.-]+) -->\n).*?(<!-- end -->)",
                 lambda m: f"{m[1]}{table_of(m[2])}\n{m[3]}", old, flags=re.S)
    if new == old:
        continue
    stale.append(str(page.relative_to(ROOT)))
    if "--check" not in sys.argv[1:]:
        page.write_text(new)
if stale and "--check" in sys.argv[1:]:
    sys.exit(f"not up to date: {', '.join(stale)}; run scripts/make_tables.py")
