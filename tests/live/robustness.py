# SPDX-License-Identifier: MIT
"""The table of docs/ROBUSTNESS.md: what an attach must survive. test_robustness.py runs each case
as a test; as a program, `robustness.py --markdown [PATTERN]` runs them and prints the table."""
import fnmatch
import sys

from pythons import find_pythons
from robust import running, refused, elsewhere, middle  # noqa: F401 (they register their cases)
from robust.bench import CASES, Bench, Impossible

TABLE_VERSIONS = ((3, 8, "pyenv"), (3, 11, "pyenv"), (3, 11, "debian"), (3, 13, "pyenv"))


def table_pythons():
    """3.8, 3.11, Debian's own and 3.13, as far as they are here."""
    found = []
    for major, minor, origin in TABLE_VERSIONS:
        found += [p for p in find_pythons()
                  if p.version[:2] == (major, minor) and p.name.endswith(origin)][:1]
    return found or [p for p in find_pythons() if (3, 6) <= p.version[:2] <= (3, 13)][-1:]


def run_case(item, python):
    """(result, stops) of one case; a broken promise is an exception."""
    bench = Bench(python)
    try:
        return item.function(bench), bench.stops_us
    finally:
        bench.close()


def cell(item, python):
    try:
        said, stops = run_case(item, python)
    except Impossible as error:
        return "not made here: %s" % error, ""
    except Exception as error:  # the table shows it
        print("%s / %s: %r" % (item.name, python.name, error), file=sys.stderr)
        return "**failed**", ""
    net = max((stop - wait for stop, wait in stops), default=None)
    return said, "" if net is None else "%.1f" % (net / 1000.0)


def markdown(pattern):
    pythons = table_pythons()
    print("| | case | result | " + " | ".join(p.name for p in pythons) + " |")
    print("|---|---|---|" + "---|" * len(pythons))
    group = None
    groups = list(dict.fromkeys(item.group for item in CASES))
    for item in sorted(CASES, key=lambda item: groups.index(item.group)):
        if not fnmatch.fnmatch(item.name, pattern):
            continue
        cells = [cell(item, p) for p in (pythons if item.each_python else pythons[-1:])]
        results = []
        for said, _ in cells:
            if said not in results:
                results.append(said)
        stops = [stop for _, stop in cells]
        if not item.each_python:
            stops = [""] * (len(pythons) - 1) + stops
        print("| %s | %s | %s | %s |" % (item.group if item.group != group else "", item.name,
                                         "; ".join(results), " | ".join(stops)))
        sys.stdout.flush()
        group = item.group


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--markdown" in sys.argv:
        markdown(words[0] if words else "*")
    else:
        print("usage: robustness.py --markdown [PATTERN]", file=sys.stderr)
        sys.exit(2)
