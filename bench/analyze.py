#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Loads and compares two snapshots of the same data: tm-analyze beside the standard library.

  analyze.py [--traces N] [--rounds N] [--python PYTHON]

The data is invented (tests/tools/mksnapshot.c), written as .tms and as the pickles that
tracemalloc.Snapshot.dump would write. Both sides alternate and each shows its best round; only
their ratio means anything. Both must find the same largest difference.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")

COMPARE = """
import json, sys, time, tracemalloc
start = time.perf_counter()
old = tracemalloc.Snapshot.load(sys.argv[1])
new = tracemalloc.Snapshot.load(sys.argv[2])
rows = new.compare_to(old, "lineno")
seconds = time.perf_counter() - start
frame = rows[0].traceback[0]
print(json.dumps([seconds, frame.filename, frame.lineno, rows[0].size_diff, rows[0].count_diff]))
"""


def timed(args):
    """(seconds, peak resident bytes, output) of a program."""
    start = time.perf_counter()
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("%s failed" % args[0])
    return time.perf_counter() - start, usage.ru_maxrss * 1024, out


def tuple_items(python):
    """Items of a trace's tuple in that Python's snapshots."""
    out = subprocess.run([python, "-c", "import sys; print(sys.version_info[:2] >= (3, 9))"],
                         stdout=subprocess.PIPE, check=True).stdout
    return "4" if out.strip() == b"True" else "3"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=2000000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    bin_dir = os.environ.get("TM_BIN_DIR", os.path.join(ROOT, "build", "bin"))
    analyze = os.path.join(bin_dir, "tm-analyze")
    make = os.path.join(bin_dir, "..", "tests", "tools", "mksnapshot")
    best = {}
    with tempfile.TemporaryDirectory(prefix="tm-bench.") as folder:
        files = {}
        for round_, name in ((0, "old"), (1, "new")):
            files[name] = os.path.join(folder, name)
            subprocess.run([make, "generate", files[name] + ".tms", str(options.traces), "1",
                            str(round_)], check=True)
            subprocess.run([analyze, "convert", files[name] + ".tms", "-o",
                            files[name] + ".pickle", "--tuples", tuple_items(options.python)],
                           check=True)
        for _ in range(options.rounds):
            seconds, rss, out = timed([analyze, "diff", "--json", "-n", "1",
                                       files["old"] + ".tms", files["new"] + ".tms"])
            row = json.loads(out)["items"][0]
            ours = [row["file"], row["line"], row["size_diff"], row["count_diff"]]
            best["tm-analyze"] = min(best.get("tm-analyze", (9e9,)), (seconds, rss))
            _, rss, out = timed([options.python, "-c", COMPARE, files["old"] + ".pickle",
                                 files["new"] + ".pickle"])
            seconds, theirs = json.loads(out)[0], json.loads(out)[1:]
            best["tracemalloc"] = min(best.get("tracemalloc", (9e9,)), (seconds, rss))
            if ours != theirs:
                sys.exit("they disagree: %s, %s" % (ours, theirs))
    for name, (seconds, rss) in sorted(best.items()):
        print("%-12s %8.3f s  %6d MiB" % (name, seconds, rss >> 20))
    print("load and diff of %d traces: tm-analyze is %.0f times as fast"
          % (options.traces, best["tracemalloc"][0] / best["tm-analyze"][0]))


if __name__ == "__main__":
    main()
