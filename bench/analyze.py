#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Loads and compares two snapshots of the same data: tm-analyze beside the standard library.

  analyze.py [--traces N] [--rounds N] [--python PYTHON]

The data is invented (tests/tools/mksnapshot.c), written as .tms and as the pickles that
tracemalloc.Snapshot.dump would write. Both sides alternate; medians of wall and of CPU time (user
and system) are shown, and the ratio of the latter is the one that other programs on the machine
disturb least. The standard library's time is that of load and compare_to alone, without its
interpreter's start; tm-analyze's is that of the whole program. Both must find the same largest
difference. With --at-least N the exit status is 1 where tm-analyze is not N times as fast.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")

COMPARE = """
import json, sys, time, tracemalloc
start, cpu_start = time.perf_counter(), time.process_time()
old = tracemalloc.Snapshot.load(sys.argv[1])
new = tracemalloc.Snapshot.load(sys.argv[2])
rows = new.compare_to(old, "lineno")
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
frame = rows[0].traceback[0]
print(json.dumps([seconds, cpu, frame.filename, frame.lineno, rows[0].size_diff, rows[0].count_diff]))
"""


def timed(args):
    """((wall seconds, CPU seconds, peak resident bytes), output) of a program."""
    start = time.perf_counter()
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("%s failed" % args[0])
    return (time.perf_counter() - start, usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * 1024), out


def tuple_items(python):
    """Items of a trace's tuple in that Python's snapshots."""
    out = subprocess.run([python, "-c", "import sys; print(sys.version_info[:2] >= (3, 9))"],
                         stdout=subprocess.PIPE, check=True).stdout
    return "4" if out.strip() == b"True" else "3"


def make_snapshots(bin_dir, folder, traces, python):
    """Paths of .tms files and pickles without their endings, the older one first."""
    paths = [os.path.join(folder, name) for name in ("old", "new")]
    for number, path in enumerate(paths):
        subprocess.run([os.path.join(bin_dir, "..", "tests", "tools", "mksnapshot"), "generate",
                        path + ".tms", str(traces), "1", str(number)], check=True)
        subprocess.run([os.path.join(bin_dir, "tm-analyze"), "convert", path + ".tms", "-o",
                        path + ".pickle", "--tuples", tuple_items(python)], check=True)
    return paths


def measure(traces, n_rounds, python):
    """{"traces": n, "ratios": [wall, CPU], "tools": {name: [wall s, CPU s, peak bytes]}}, medians."""
    bin_dir = os.environ.get("TM_BIN_DIR", os.path.join(ROOT, "build", "bin"))
    rounds = {"tm-analyze": [], "tracemalloc": []}
    with tempfile.TemporaryDirectory(prefix="tm-bench.") as folder:
        old, new = make_snapshots(bin_dir, folder, traces, python)
        for _ in range(n_rounds):
            row, out = timed([os.path.join(bin_dir, "tm-analyze"), "diff", "--json", "-n", "1",
                              old + ".tms", new + ".tms"])
            item = json.loads(out)["items"][0]
            ours = [item["file"], item["line"], item["size_diff"], item["count_diff"]]
            rounds["tm-analyze"].append(row)
            row, out = timed([python, "-c", COMPARE, old + ".pickle", new + ".pickle"])
            wall, cpu, *theirs = json.loads(out)
            rounds["tracemalloc"].append((wall, cpu, row[2]))
            if ours != theirs:
                sys.exit("they disagree: %s, %s" % (ours, theirs))
    medians = {name: [statistics.median(column) for column in zip(*rows)]
               for name, rows in rounds.items()}
    return {"traces": traces, "tools": medians,
            "ratios": [medians["tracemalloc"][i] / medians["tm-analyze"][i] for i in (0, 1)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=2000000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--at-least", type=float, default=0, metavar="N")
    options = parser.parse_args()
    result = measure(options.traces, options.rounds, options.python)
    for name, (wall, cpu, rss) in sorted(result["tools"].items()):
        print("%-12s %8.3f s wall %8.3f s CPU %6d MiB" % (name, wall, cpu, int(rss) >> 20))
    print("load and diff of %d traces: tm-analyze is %.0f times as fast (CPU time: %.0f)"
          % (result["traces"], result["ratios"][0], result["ratios"][1]))
    return 0 if min(result["ratios"]) >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
