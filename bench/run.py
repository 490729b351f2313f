# SPDX-License-Identifier: MIT
"""Measures tm beside tracemalloc and beside no tracing, in one run. See scripts/bench."""
import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

import analyze
import configs
import measure
import process
import report

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "live"))
from pythons import find_pythons  # noqa: E402


def parse(argv):
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--python", action="append", metavar="X.Y",
                        help="only these versions (default: 3.11 and 3.13; `all` for every one)")
    parser.add_argument("--workload", action="append", metavar="NAME", help="only these workloads")
    parser.add_argument("--config", action="append", metavar="TEXT",
                        help="only configurations whose name contains TEXT (and no tracing)")
    parser.add_argument("--rounds", type=int, default=21, help="runs of each configuration")
    parser.add_argument("--processes", type=int, default=2,
                        help="sets of processes that the rounds are divided among")
    parser.add_argument("--minutes", type=float, metavar="N",
                        help="as many rounds as fit into about that time, on a quiet machine, but "
                        "two of each at least; the store with 1 and 16 frames only")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads")
    parser.add_argument("--blocks", type=int, default=2000000, help="live blocks of the store")
    parser.add_argument("--no-store", action="store_true",
                        help="times only: no store of live traces, no analysis")
    parser.add_argument("--markdown", metavar="FILE",
                        help="puts the tables into this file, e.g. docs/BENCHMARKS.md, too")
    parser.add_argument("--output", default="bench-results", metavar="FOLDER",
                        help="where results.json and BENCHMARKS.md go")
    parser.add_argument("--quick", action="store_true",
                        help="a smoke run: everything once, small; its times mean nothing")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.processes = 1, 1
        options.scale, options.blocks = 0.02, 20000
    return options


def choose_pythons(options):
    found = [p for p in find_pythons() if (3, 6) <= p.version[:2] <= (3, 14)]
    wanted = options.python
    if not wanted:  # one of each: the distribution's, where there is one
        first = {p.version[:2]: p.name for p in reversed(found)}
        wanted = [first[version] for version in ((3, 11), (3, 13)) if version in first]
    chosen = [p for p in found if "all" in wanted or "%d.%d" % p.version[:2] in wanted
              or "%d.%d.%d" % p.version in wanted or p.name in wanted]
    if options.quick and not options.python:
        chosen = chosen[-1:] or found[-1:]
    if not chosen:
        sys.exit("scripts/bench: found no Python of %s; there are: %s"
                 % (" ".join(wanted) or "3.11 or 3.13", " ".join(p.name for p in found) or "none"))
    return chosen


def measure_store_of(python, chosen, options, folder, say):
    for config in chosen:
        if config.tool not in ("tm", "tracemalloc") or config.sample or config.native:
            continue
        if options.minutes and config.frames > 16:
            continue
        yield config.name, measure.measure_store(python.path, config, options.blocks,
                                                 2 if options.quick else 5, folder, say)


# Of --minutes, what the runs take; the rest is for the stores, the analysis and the attaching.
SHARE_OF_RUNS = 0.6


def seconds_of_workload(options, n_pythons, n_workloads):
    if not options.minutes:
        return None
    return options.minutes * 60 * SHARE_OF_RUNS / (n_pythons * n_workloads)


def measure_python(python, chosen, workloads, options, seconds, folder):
    run = {"version": "%d.%d.%d" % python.version, "origin": python.name.split("-")[-1],
           "configs": [config.name for config in chosen], "workloads": {}, "unavailable": {},
           "store": {}}
    say = lambda text: print(text, flush=True)  # noqa: E731
    say("CPython " + python.name)
    for name in workloads:
        try:
            run["workloads"][name] = measure.time_workload(
                python.path, name, chosen, options, seconds, folder, say)
        except process.Unavailable as error:
            run["unavailable"][name] = str(error)
            say("  %-18s not available: %s" % (name, error))
    if not run["workloads"]:
        sys.exit("scripts/bench: not one workload could be run on " + python.name)
    if not options.no_store:
        run["store"] = dict(measure_store_of(python, chosen, options, folder, say))
    return run


def main(argv):
    options = parse(argv)
    chosen = [c for c in configs.CONFIGS if c.name == configs.BASE or not options.config
              or any(text in c.name for text in options.config)]
    if process.libunwind_path() is None:
        chosen = [c for c in chosen if c.tool != "libunwind"]
    every = configs.MIX + configs.NOTHING + configs.REAL
    if options.quick:
        chosen = [c for c in chosen if options.config or c.name in configs.QUICK]
        every = every if options.workload else configs.QUICK_WORKLOADS
    workloads = [name for name in every if not options.workload or name in options.workload]
    if not workloads:
        sys.exit("scripts/bench: no such workload; there are: " + " ".join(every))
    os.environ["TM_BIN_DIR"] = process.BIN = os.path.abspath(process.BIN)
    results = {"meta": {
        "schema": 1, "command": " ".join(["scripts/bench"] + argv),
        "tm": process.tm("tm-attach", "--version").split()[-1],
        "date": datetime.datetime.now().strftime("%Y-%m-%d"), "machine": platform.machine(),
        "kernel": platform.release(), "processors": os.cpu_count(), "rounds": options.rounds,
        "processes": options.processes, "minutes": options.minutes, "scale": options.scale,
        "load_before": "%.1f" % os.getloadavg()[0], "quick": options.quick}, "pythons": []}
    folder = tempfile.mkdtemp(prefix="tm-bench-")
    try:
        pythons = choose_pythons(options)
        seconds = seconds_of_workload(options, len(pythons), len(workloads))
        for python in pythons:
            results["pythons"].append(
                measure_python(python, chosen, workloads, options, seconds, folder))
        if not options.no_store:
            results["analysis"] = analyze.measure(options.blocks, 1 if options.quick else 3,
                                                  pythons[-1].path)
        results["meta"]["load_after"] = "%.1f" % os.getloadavg()[0]
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        sys.exit("scripts/bench: %s" % error)
    finally:
        shutil.rmtree(folder)
    os.makedirs(options.output, exist_ok=True)
    with open(os.path.join(options.output, "results.json"), "w") as file:
        json.dump(results, file, indent=1)
    text = report.tables(results)
    with open(os.path.join(options.output, "BENCHMARKS.md"), "w") as file:
        file.write("# Benchmarks\n\n" + text)
    if options.markdown:
        report.put_tables(options.markdown, text)
    print("\n" + text)
    print("Written: %s/results.json, %s/BENCHMARKS.md" % (options.output, options.output))


if __name__ == "__main__":
    main(sys.argv[1:])
