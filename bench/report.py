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
    pairs = [a / b for a, b in zip(of[config][key], of[BASE][key]) if b]
    return statistics.median(pairs) if pairs else None


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _cell(value, form="%.2f"):
    return form % value if value is not None else "-"


def _table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def _ratio_table(run, key):
    names = [name for name in MIX + NOTHING + REAL if name in run["workloads"]]
    configs = [config for config in run["configs"] if config != BASE]
    rows = []
    for config in configs:
        of = {name: ratios(run["workloads"], name, config, key) for name in names}
        means = [geometric_mean([of[n] for n in group if n in of]) for group in (MIX, REAL)]
        rows.append([config] + [_cell(mean) for mean in means] + [_cell(of[n]) for n in names])
    return _table([""] + ["**mean of the mix**", "**mean of the real**"] + names, rows)


def _seconds_table(run):
    names = [name for name in MIX + NOTHING + REAL if name in run["workloads"]]
    return _table([""] + names, [[config] + [
        _cell(statistics.median(run["workloads"][name][config]["seconds"]), "%.4f")
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


def markdown(results):
    meta = results["meta"]
    lines = ["# Benchmarks", "", "`%s`" % meta["command"], "",
             "tm %s, %s, %s, kernel %s, %d processors. %d rounds; each number is the median over "
             "the rounds of the fastest run of one process. Ratios are to the process without "
             "tracing of the same round. Only they mean anything: the machine had other work."
             % (meta["tm"], meta["date"], meta["machine"], meta["kernel"], meta["processors"],
                meta["rounds"]), ""]
    for run in results["pythons"]:
        lines += ["## CPython %s (%s)" % (run["version"], run["origin"]), ""]
        lines += ["### Time, as a multiple of no tracing", ""] + _ratio_table(run, "seconds")
        lines += ["### Peak resident memory, as a multiple of no tracing", ""]
        lines += _ratio_table(run, "peak_rss_bytes")
        lines += ["### Seconds", ""] + _seconds_table(run)
        if run["store"]:
            lines += ["### A store of many live traces", ""] + _store_table(run["store"])
        for name, reason in sorted(run["unavailable"].items()):
            lines += ["Not measured here: %s (%s)." % (name, reason), ""]
    return "\n".join(lines)
