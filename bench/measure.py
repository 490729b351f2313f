# SPDX-License-Identifier: MIT
"""What is measured: the time of the workloads, alternating over the configurations, and what a
store of many live traces costs (memory, pause, file, analysis)."""
import contextlib
import json
import os
import re
import statistics
import subprocess
import time

from process import Process, Unavailable, tm

_DIFF_BY_TRACEMALLOC = """
import sys, tracemalloc
old, new = (tracemalloc.Snapshot.load(path) for path in sys.argv[1:3])
for stat in new.compare_to(old, "lineno")[:10]:
    print(stat)
"""


# One turn of a process: the workload again and again for this long, but a few times at most.
TURN_SECONDS = 0.3
TURN_RUNS = 9


class Budget:
    """Which turns are taken: at most one of each configuration in a round, and where `seconds` are
    given no more than fit, but `least` of each. A configuration that has used more than its share
    waits for the others."""

    def __init__(self, seconds, least):
        self.seconds, self.least = seconds, least
        self.begin, self.used = time.monotonic(), {}

    def is_spent(self):
        return self.seconds and time.monotonic() - self.begin > self.seconds

    def allows(self, config, n_configs, n_done):
        used = self.used.get(config.name, 0)
        return n_done < self.least or not self.seconds or used < 2 * self.seconds / n_configs

    def note(self, config, seconds):
        self.used[config.name] = self.used.get(config.name, 0) + seconds


def _rounds(processes, rounds, scale, budget, result, say):
    """Each process has a turn a round, another one first each time. What is kept of a turn is its
    fastest run: the first ones find the caches as the others left them, and what else goes on on
    the machine only ever adds."""
    base = result[processes[0].config.name]["seconds"]
    n_before = len(base)
    for number in range(rounds):
        if len(base) - n_before >= 2 and budget.is_spent():
            break
        turn = number % len(processes)
        for process in processes[turn:] + processes[:turn]:
            of = result[process.config.name]
            n_done = sum(value is not None for value in of["seconds"][n_before:])
            answer = None
            if budget.allows(process.config, len(processes), n_done):
                answer = process.ask("run", scale, TURN_RUNS, TURN_SECONDS)
                budget.note(process.config, sum(answer["seconds"]))
                say("  %-18s %-24s %.4f s" % (process.workload, process.config.name,
                                              min(answer["cpu_seconds"])))
            for key in "seconds", "cpu_seconds":
                of[key].append(answer and min(answer[key]))
            of["peak_rss_bytes"].append(answer and answer["peak_rss_bytes"])


def time_workload(python, workload, configs, options, seconds, folder, say):
    """Runs every configuration, each in a process of its own, alternating: once a round. The rounds
    are divided among several sets of processes, because where a process's memory happens to lie
    makes a difference. `seconds`: all of it takes about that long; None: as long as it takes.
    Returns {config name: {"seconds": [...], "cpu_seconds": [...], "peak_rss_bytes": [...]}} with
    one number a round, None for a run that there was no time for. Raises Unavailable."""
    keys = "seconds", "cpu_seconds", "peak_rss_bytes"
    result = {config.name: {key: [] for key in keys} for config in configs}
    for number in range(options.processes):
        share = -(-options.rounds // options.processes)
        budget = Budget(seconds and seconds / options.processes, -(-2 // options.processes))
        with contextlib.ExitStack() as stack:
            processes = []
            for config in configs:
                try:
                    processes.append(stack.enter_context(Process(python, workload, config, folder)))
                    processes[-1].ask("run", options.scale / 10, 1, 0)  # warm
                except Unavailable:
                    if config.tool == "none":
                        raise
                    raise RuntimeError("%s, %s: the target died" % (workload, config.name))
            _rounds(processes, share, options.scale, budget, result, say)
    return result


def _number(text):
    """The bytes or the count that a value of --status begins with."""
    match = re.match(r"([\d.]+)\s*(B|KiB|MiB|GiB)?", text.replace(",", ""))
    if not match:
        return None
    unit = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}.get(match.group(2), 1)
    return float(match.group(1)) * unit


def _own_bytes(status):
    for key in ("own_bytes", "own memory", "own"):
        if key in status:
            return _number(status[key])
    return None


def _file_traces(path):
    top = json.loads(tm("tm-analyze", "top", "-n", "1", "--json", path))
    return top["snapshots"][0]["count"]


def _timed(command, **options):
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
                   **options)
    return time.perf_counter() - start


def measure_store(python, config, blocks, snapshots, folder, say):
    """A process that holds `blocks` live blocks, and snapshots of it. Pauses are what a thread of
    the target that looks at the clock all the time did not see; `idle_gap` is the same without a
    snapshot, for the machine's own noise. Memory and sizes in bytes, times in seconds."""
    result = {}
    files = []
    with Process(python, "live", config, folder) as process:
        result["grown_rss_bytes"] = process.ask("hold", blocks)["grown_bytes"]
        process.ask("spin")
        pauses, idle = [], []
        for number in range(snapshots):
            process.ask("gap")
            time.sleep(0.1)  # an interval to measure, not a wait for something
            idle.append(process.ask("gap")["seconds"])
            path = os.path.join(folder, "%s-%d" % (config.tool, number))
            if config.tool == "tracemalloc":
                answer = process.ask("snapshot", path)
                result["traces"] = answer["traces"]
                result["own_bytes"] = answer["own_bytes"]
                # The target's thread that takes it holds the GIL or competes for it: the gap is
                # what the spinner sees of the whole, writing included.
            else:
                path = process.snapshot()
            pauses.append(process.ask("gap")["seconds"])
            files.append(path)
        if config.tool == "tm":
            result["traces"] = _file_traces(files[-1])
            result["own_bytes"] = _own_bytes(process.status())
    result["pause_seconds"] = statistics.median(pauses)
    result["idle_gap_seconds"] = statistics.median(idle)
    result["file_bytes"] = os.path.getsize(files[-1])
    if config.tool == "tracemalloc":
        command = [python, "-c", _DIFF_BY_TRACEMALLOC]
    else:
        command = [os.path.join(os.environ["TM_BIN_DIR"], "tm-analyze"), "diff"]
    result["diff_seconds"] = min(_timed(command + files[-2:]) for _ in range(2))
    for path in files:
        os.remove(path)
    say("  store of %d, %s: pause %.1f ms, %.1f B a trace in the file"
        % (result["traces"], config.name, result["pause_seconds"] * 1e3,
           result["file_bytes"] / max(1, result["traces"])))
    return result
