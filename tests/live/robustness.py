# SPDX-License-Identifier: MIT
"""The table of docs/ROBUSTNESS.md: what an attach must survive. test_robustness.py runs each case
as a test. As a program it runs them all and prints the table:

    robustness.py --markdown [--attaches N] [--into docs/ROBUSTNESS.md] [PATTERN]

--attaches: how often the mechanism goes in and out per case and Python (6). --into: puts the table
between the marks in that file. PATTERN: only cases whose names match."""
import argparse
import fnmatch
import os
import platform
import statistics
import sys
import time

from pythons import find_pythons
from robust import running, refused, elsewhere, middle  # noqa: F401 (they register their cases)
from robust.bench import CASES, DEEP, Bench, Impossible

TABLE_VERSIONS = ((3, 8, "pyenv"), (3, 11, "pyenv"), (3, 11, "debian"), (3, 13, "pyenv"))
GROUPS = ("blocked in", "busy", "states", "signals", "interpreter", "allocators", "registers",
          "refused", "users", "elsewhere", "in the middle", "over time")
MARKS = ("<!-- table -->\n", "<!-- end of the table -->\n")
WAITED_MS = 1.0  # a wait for a processor that is worth a number of its own


def table_pythons():
    """3.8, 3.11, Debian's own and 3.13, as far as they are here."""
    found = []
    for major, minor, origin in TABLE_VERSIONS:
        found += [p for p in find_pythons()
                  if p.version[:2] == (major, minor) and p.name.endswith(origin)][:1]
    return found or [p for p in find_pythons() if (3, 6) <= p.version[:2] <= (3, 13)][-1:]


def run_case(item, python, attaches=None):
    """(result, stops) of one case; a broken promise is an exception."""
    bench = Bench(python, attaches)
    try:
        return item.function(bench), bench.stops_us
    finally:
        bench.close()


def net_ms(stops_us):
    return [(stop - wait) / 1000.0 for stop, wait in stops_us]


def gross_ms(stops_us):
    return [stop / 1000.0 for stop, _ in stops_us]


def numbers(stops_us):
    """Median and worst without waiting; the worst with it, where that is another."""
    if not stops_us:
        return ""
    net, worst = net_ms(stops_us), max(gross_ms(stops_us))
    text = "%.1f / %.1f" % (statistics.median(net), max(net))
    return text if worst < max(net) + WAITED_MS else text + " (%.1f)" % worst


def run_cell(item, python, attaches):
    try:
        return run_case(item, python, attaches)
    except Impossible as error:
        return "not made here: %s" % error, []
    except Exception as error:  # the table shows it
        print("%s / %s: %r" % (item.name, python.name, error), file=sys.stderr)
        return "**failed**", []


def bound(what, stops_us, bound_ms):
    return "%s: %d stops, worst %.1f ms, with waiting %.1f ms; the bound is %d ms." % (
        what, len(stops_us), max(net_ms(stops_us), default=0), max(gross_ms(stops_us), default=0),
        bound_ms)


def table(pattern, attaches):
    """The table's lines, one by one, and behind it what the numbers come to."""
    pythons = table_pythons()
    begun, group, idle, deep = time.monotonic(), None, [], []
    yield "| | case | result | " + " | ".join(p.name for p in pythons) + " |"
    yield "|---|---|---|" + "---|" * len(pythons)
    for item in sorted(CASES, key=lambda item: GROUPS.index(item.group)):
        if not fnmatch.fnmatch(item.name, pattern):
            continue
        cells = [run_cell(item, p, attaches) for p in (pythons if item.each_python else pythons[-1:])]
        texts = [numbers(stops) for _, stops in cells]
        if item.group == "blocked in":
            for _, stops in cells:
                (deep if item.name == DEEP else idle).extend(stops)
        yield "| %s | %s | %s | %s |" % (
            item.group if item.group != group else "", item.name,
            "; ".join(dict.fromkeys(said for said, _ in cells)),
            " | ".join([""] * (len(pythons) - len(texts)) + texts))
        group = item.group
    yield ""
    yield bound("Idle targets", idle, 5)
    yield bound("A 2000-frame stack", deep, 10)
    yield "Made in %d s on %d processors (Linux %s), with %d attaches per case and Python." % (
        time.monotonic() - begun, os.cpu_count(), platform.release(), attaches)


def put_into(path, lines):
    with open(path) as file:
        text = file.read()
    head, rest = text.split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    with open(path, "w") as file:
        file.write(head + MARKS[0] + "\n" + "".join(line + "\n" for line in lines) + "\n" + MARKS[1] +
                   tail)


def main():
    parser = argparse.ArgumentParser(description="What an attach must survive, as a table.")
    parser.add_argument("--markdown", action="store_true", required=True)
    parser.add_argument("--attaches", type=int, default=6, metavar="N")
    parser.add_argument("--into", metavar="FILE")
    parser.add_argument("pattern", nargs="?", default="*")
    args = parser.parse_args()
    lines = []
    for line in table(args.pattern, args.attaches):
        print(line)
        sys.stdout.flush()
        lines.append(line)
    if args.into:
        put_into(args.into, lines)
    return 1 if any("**failed**" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
