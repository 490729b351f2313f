#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs modules of CPython's own regression tests (python -m test, as installed with each
interpreter) without tracing and under tm-attach, and compares the verdicts test by test.

    TM_BIN_DIR=build/bin tests/cpython/compare.py --python 3.11.7 --python 3.13.0
    TM_BIN_DIR=build/bin tests/cpython/compare.py --python 3.13.0 test_json test_dict

What differs is run again, both ways, because some of these tests depend on the machine's load;
a difference counts when it stays. Exit status 1: one stayed. Needs 3.7 or later."""
import argparse
import collections
import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "live"))
from pythons import find_pythons  # noqa: E402
from tools import BIN_DIR  # noqa: E402

MODULES = """test_json test_dict test_list test_set test_unicode test_re test_threading test_gc
test_generators test_coroutines test_asyncio test_subprocess test_sqlite3 test_sqlite test_fork1
test_capi test_sys test_traceback test_weakref test_code test_exceptions test_tuple test_bytes
test_memoryview test_struct test_pickle test_copy test_collections test_itertools test_functools
test_heapq test_bisect test_sort test_deque test_array test_io test_os test_signal test_select
test_selectors test_thread test_threading_local test_queue test_contextlib test_dataclasses
test_enum test_typing test_descr test_class test_scope test_compile test_ast test_symtable
test_dis test_frame test_inspect test_sys_settrace test_sys_setprofile test_monitoring test_bdb
test_trace test_faulthandler test_tracemalloc test_asyncgen test_contextvars test_decimal
test_float test_long test_int test_complex test_math test_random test_zlib test_hashlib
test_socket test_multiprocessing_fork test_concurrent_futures test_importlib test_import
test_exception_hierarchy test_raise test_with test_yield_from test_userdict test_string
test_csv test_configparser test_xml_etree test_ctypes test_mmap test_posix test_atexit""".split()

Run = collections.namedtuple("Run", "status verdicts seconds output")


def read_verdicts(path):
    """{test: "ok", "skipped" or what went wrong}; None where there is no report."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError):
        return None
    verdicts = {}
    for case in root.iter("testcase"):
        bad = [child.tag for child in case if child.tag in ("error", "failure")]
        skipped = case.get("result") == "skipped" or case.find("skipped") is not None
        verdicts[case.get("name")] = bad[0] if bad else "skipped" if skipped else "ok"
    return verdicts


def run_module(python, module, options, traced):
    folder = tempfile.mkdtemp(prefix="tm-cpython-")
    report = os.path.join(folder, "report.xml")
    command = [python.path, "-m", "test", "--junit-xml", report, module]
    if traced:
        command = [os.path.join(BIN_DIR, "tm-attach"), "--traceback-limit", str(options.frames),
                   "--delay", str(options.delay), "--memory-threshold", "0",
                   "--output", os.path.join(folder, "t-$pid-$counter.tms"),
                   ] + options.attach + ["--"] + command
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", TMPDIR=folder)
    start = time.monotonic()
    with open(os.path.join(folder, "output"), "w+b") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=options.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = "no end in %d s" % options.timeout
        output.seek(0)
        text = output.read().decode(errors="replace")
    run = Run(status, read_verdicts(report), time.monotonic() - start, text)
    shutil.rmtree(folder, ignore_errors=True)
    return run


def differences(plain, traced):
    """What the two runs do not have in common, as {test: (plain, traced)}."""
    found = {}
    if plain.status != traced.status:
        found["exit status"] = (plain.status, traced.status)
    ours, theirs = traced.verdicts or {}, plain.verdicts or {}
    for test in sorted(set(ours) | set(theirs)):
        if ours.get(test) != theirs.get(test):
            found[test] = (theirs.get(test, "not run"), ours.get(test, "not run"))
    return found


def compare(python, module, options):
    """(line to print, differences that stayed, output of the last traced run)"""
    plain, traced = (run_module(python, module, options, t) for t in (False, True))
    if plain.verdicts is None and plain.status == traced.status:
        return "%-16s %-24s gives no report, status %s" % (python.name, module, plain.status), {}, ""
    stays = differences(plain, traced)
    for _ in range(options.retries):
        if not stays:
            break
        plain, traced = (run_module(python, module, options, t) for t in (False, True))
        again = differences(plain, traced)
        stays = {test: again[test] for test in stays if test in again}
    words = "same" if not stays else "DIFFERS"
    counts = collections.Counter((plain.verdicts or {}).values())
    return ("%-16s %-24s %s: %s, status %s (%.0f s, traced %.0f s)"
            % (python.name, module, words,
               ", ".join("%d %s" % (n, verdict) for verdict, n in sorted(counts.items())),
               plain.status, plain.seconds, traced.seconds), stays, traced.output)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="VERSION",
                        help="only these (3.13.0, or a name as the tests show it)")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--delay", type=int, default=30, help="seconds between snapshots")
    parser.add_argument("--attach", action="append", default=[], metavar="OPTION",
                        help="one more option for tm-attach, e.g. --attach=--follow-fork")
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for each run")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    return parser.parse_args(argv)


def has_module(python, module):
    code = "import sys, importlib.util as u; sys.exit(u.find_spec('test.' + sys.argv[1]) is None)"
    return subprocess.run([python.path, "-c", code, module], stderr=subprocess.DEVNULL,
                          cwd="/").returncode == 0


def main(argv):
    options = parse(argv)
    # A shell that starts us in the background has us ignore SIGINT, and so would the tests, some of
    # which wait for theirs: test_threading's for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pythons = [p for p in find_pythons() if p.version >= (3, 7) and (
        not options.python or p.name in options.python
        or "%d.%d.%d" % p.version in options.python)]
    pairs = [(python, module) for python in pythons for module in options.modules or MODULES
             if has_module(python, module)]
    if not pairs:
        sys.exit("none of these modules is there (libpythonX.Y-testsuite has them in Debian)")
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for line, stays, output in pool.map(lambda pair: compare(*pair, options), pairs):
            print(line, flush=True)
            for test, (plain, traced) in stays.items():
                print("    %s: %s without tracing, %s with it" % (test, plain, traced))
            if stays:
                failed += 1
                print("    " + "\n    ".join(output.splitlines()[-60:]), flush=True)
    print("%d of %d modules differ" % (failed, len(pairs)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
