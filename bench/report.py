# SPDX-License-Identifier: MIT
"""The results as Markdown: medians and ratios, one group of tables per Python."""
import math
import statistics

from configs import BASE, MIX, NOTHING, REAL


def ratios(results, workload, config, key):
    """The median over the rounds of config / no tracing, both of the same round; None if unknown."""
    of = results.get(workload, {})
    if config not in of or BASE not in of:
        return None
    pairs = [a / b for a, b in zip(of[config][key], of[BASE][key]) if a and b]
    return statistics.median(pairs) if pairs else None


def least_ratio(results, workload, config, key):
    """The fastest of all runs by the fastest without tracing; None if unknown."""
    of = results.get(workload, {})
    if config not in of or BASE not in of:
        return None
    least = [min((value for value in of[name][key] if value), default=None)
             for name in (config, BASE)]
    return least[0] / least[1] if all(least) else None


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def _cell(value, form="%.2f"):
    return form % value if value is not None else "-"


def _table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def _ratio_table(run, key, ratio=ratios):
    names = [name for name in MIX + NOTHING + REAL if name in run["workloads"]]
    configs = [config for config in run["configs"] if config != BASE]
    rows = []
    for config in configs:
        of = {name: ratio(run["workloads"], name, config, key) for name in names}
        means = [geometric_mean([of[n] for n in group if n in of]) for group in (MIX, REAL)]
        rows.append([config] + [_cell(mean) for mean in means] + [_cell(of[n]) for n in names])
    return _table([""] + ["**mean of the mix**", "**mean of the real**"] + names, rows)


def _seconds_table(run):
    names = [name for name in MIX + NOTHING + REAL if name in run["workloads"]]
    return _table([""] + names, [[config] + [
        _cell(median(run["workloads"][name][config]["cpu_seconds"]), "%.4f")
        if config in run["workloads"][name] else "-" for name in names]
        for config in run["configs"]])


def _store_table(store):
    rows = []
    for config, of in store.items():
        traces = max(1, of["traces"])
        own = of.get("own_bytes")
        rows.append([config, "%d" % of["traces"],
                     _cell(own / traces if own is not None else None, "%.1f"),
                     "%.2f" % (of["pause_seconds"] * 1e3),
                     "%.2f" % (of["pause_seconds"] * 1e9 / traces),
                     "%.2f" % (of["idle_gap_seconds"] * 1e3),
                     "%.2f" % (of["file_bytes"] / traces), "%.3f" % of["diff_seconds"]])
    return _table(["", "live traces", "own memory, B a trace", "pause, ms", "pause, ms per million",
                   "gap without a snapshot, ms", "file, B a trace", "diff of two, s"], rows)


def _analysis(analysis):
    rows = [[name, "%.3f" % wall, "%.3f" % cpu, "%d" % (int(rss) >> 20)]
            for name, (wall, cpu, rss) in sorted(analysis["tools"].items())]
    return ["## Loading two snapshots of %d traces and comparing them" % analysis["traces"], ""] + \
        _table(["", "wall time, s", "CPU time, s", "peak memory, MiB"], rows) + \
        ["tm-analyze is %.0f times as fast (CPU time: %.0f). Both find the same largest difference."
         % tuple(analysis["ratios"]), ""]


def tables(results):
    meta = results["meta"]
    lines = ["`%s`" % meta["command"], "",
             "tm %s, %s, %s, kernel %s, %d processors, load average %s before and %s after."
             % (meta["tm"], meta["date"], meta["machine"], meta["kernel"], meta["processors"],
                meta["load_before"], meta["load_after"]), ""]
    for run in results["pythons"]:
        of = next(iter(run["workloads"].values()))[BASE]["seconds"]
        lines += ["## CPython %s (%s)" % (run["version"], run["origin"]), "",
                  "Medians of up to %d rounds." % len(of), ""]
        lines += ["### CPU time, as a multiple of no tracing", ""]
        lines += _ratio_table(run, "cpu_seconds")
        lines += ["### CPU time of the fastest run of all, by the fastest without tracing", ""]
        lines += _ratio_table(run, "cpu_seconds", least_ratio)
        lines += ["### Wall time, as a multiple of no tracing", ""] + _ratio_table(run, "seconds")
        lines += ["### Peak resident memory, as a multiple of no tracing", ""]
        lines += _ratio_table(run, "peak_rss_bytes")
        lines += ["### CPU time of one run, s", ""] + _seconds_table(run)
        if run["store"]:
            lines += ["### A store of many live traces", ""] + _store_table(run["store"])
        for name, reason in sorted(run["unavailable"].items()):
            lines += ["Not measured here: %s (%s)." % (name, reason), ""]
    if results.get("analysis"):
        lines += _analysis(results["analysis"])
    return "\n".join(lines)


_BEGIN, _END = "<!-- tables of scripts/bench: begin -->", "<!-- tables of scripts/bench: end -->"


def put_tables(path, text):
    """Writes the tables into a Markdown file: between its two marks, or as the whole file."""
    try:
        with open(path) as file:
            old = file.read()
    except FileNotFoundError:
        old = "# Benchmarks\n\n%s\n%s\n" % (_BEGIN, _END)
    if _BEGIN not in old or _END not in old:
        raise RuntimeError("%s has no marks for the tables: %s and %s" % (path, _BEGIN, _END))
    head, rest = old.split(_BEGIN, 1)
    with open(path, "w") as file:
        file.write("%s%s\n\n%s\n%s%s" % (head, _BEGIN, text, _END, rest.split(_END, 1)[1]))
