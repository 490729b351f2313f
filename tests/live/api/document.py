# SPDX-License-Identifier: MIT
"""Runs under every Python: snapshots, their files, and what is displayed of them."""
import os
import pickle
import sys
import unittest
from datetime import datetime

import pytracemalloc as t
from behaviours import Case, allocate
from old import SEES_ALL, FileError, TextOut

NOW = datetime(2013, 10, 3, 11, 34, 39, 500000)
LATER = datetime(2013, 10, 3, 11, 34, 45)


def make_traces():
    return {
        0x10001: (10, (("a.py", 2), ("b.py", 4))),
        0x10002: (10, (("a.py", 2), ("b.py", 4))),
        0x10003: (10, (("a.py", 2), ("b.py", 4))),
        0x20001: (2, (("a.py", 5), ("b.py", 4))),
        0x30001: (66, (("b.py", 1),)),
        0x40001: (7, ((None, None),)),
    }


def make_stats():
    return {"a.py": {2: (30, 3), 5: (2, 1)}, "b.py": {1: (66, 1)}, None: {None: (7, 1)}}


def make_snapshots():
    first = t.Snapshot(NOW, 123, make_traces(), make_stats(), None)
    traces = make_traces()
    traces.update({0x20002: (5000, (("a.py", 5), ("b.py", 4))), 0x50001: (400, (("c.py", 578),))})
    del traces[0x40001]
    stats = {"a.py": {2: (30, 3), 5: (5002, 2)}, "b.py": {1: (66, 1)}, "c.py": {578: (400, 1)}}
    return first, t.Snapshot(LATER, 123, traces, stats, None)


class Snapshots(Case):
    def test_attributes(self):
        snapshot = t.Snapshot(NOW, 5, make_traces(), make_stats(), {})
        self.assertEqual(snapshot.timestamp, NOW)
        self.assertEqual(snapshot.pid, 5)
        self.assertEqual(snapshot.traces, make_traces())
        self.assertEqual(snapshot.stats, make_stats())
        self.assertEqual(snapshot.metrics, {})
        self.assertEqual(snapshot.traceback_limit, 2)

    def test_original_order(self):
        for snapshot in (t.Snapshot(NOW, 5, 9, make_stats(), make_traces(), None),
                         t.Snapshot(NOW, 5, 9, stats=make_stats(), traces=make_traces())):
            self.assertEqual(snapshot.traceback_limit, 9)
            self.assertEqual(snapshot.traces, make_traces())
            self.assertEqual(snapshot.stats, make_stats())

    def test_both_none(self):
        self.raises(ValueError, "traces and stats cannot be None at the same time",
                    t.Snapshot, NOW, 5)

    def test_metrics(self):
        snapshot = t.Snapshot(NOW, 5, None, make_stats())
        metric = snapshot.add_metric("x", 3, "int")
        self.assertEqual(metric, t.Metric("x", 3, "size"))
        self.assertNotEqual(metric, t.Metric("x", 4, "int"))
        self.assertEqual(repr(t.Metric("a", 1, "int")), "<Metric name='a' value=1 format='int'>")
        self.raises(ValueError, "name already present: 'x'", snapshot.add_metric, "x", 1, "int")
        self.assertEqual(snapshot.get_metric("x"), 3)
        self.assertIsNone(snapshot.get_metric("y"))
        self.assertEqual(snapshot.get_metric("y", 7), 7)

    def test_create_disabled(self):
        self.raises(RuntimeError, "the pytracemalloc module must be enabled to take a snapshot",
                    t.Snapshot.create)

    def test_create(self):
        t.enable()
        data, frame = allocate(54321)
        snapshot = t.Snapshot.create()
        self.assertIsNone(snapshot.traces)
        self.assertEqual(snapshot.stats[frame[0]][frame[1]][0] >= 54321, True)
        self.assertEqual(snapshot.pid, os.getpid())
        self.assertEqual(snapshot.traceback_limit, 1)
        self.assertLess(abs((datetime.now() - snapshot.timestamp).total_seconds()), 60)
        self.assertNotIn("tracemalloc.traces", snapshot.metrics)
        snapshot = t.Snapshot.create(traces=True)
        self.assertEqual(snapshot.traces[t.get_object_address(data)], (54321, (frame,)))
        expected = {
            "gc.objects": "int", "process_memory.rss": "size", "process_memory.vms": "size",
            "tracemalloc.traced.size": "size", "tracemalloc.traced.max_size": "size",
            "tracemalloc.traces": "int", "tracemalloc.module.size": "size",
            "tracemalloc.module.free": "size", "tracemalloc.module.fragmentation": "percent",
            "tracemalloc.arena_size": "size"}
        if not SEES_ALL:
            del expected["tracemalloc.arena_size"]
        self.assertEqual({name: m.format for name, m in snapshot.metrics.items()}, expected)
        self.assertEqual(snapshot.get_metric("tracemalloc.traces"), len(snapshot.traces))
        self.assertEqual(t.Snapshot.create(metrics=False).metrics, {})

    def test_create_asks_the_modules_globals(self):
        saved = {name: getattr(t, name) for name in ("get_traces", "get_stats",
                                                     "get_process_memory", "get_traced_memory")}
        try:
            t.get_traces = make_traces
            t.get_stats = make_stats
            t.get_process_memory = lambda: (1111, 2222)
            t.get_traced_memory = lambda: (3333, 4444)
            t.enable()
            snapshot = t.Snapshot.create(traces=True)
        finally:
            for name, func in saved.items():
                setattr(t, name, func)
        self.assertEqual(snapshot.traces, make_traces())
        self.assertEqual(snapshot.stats, make_stats())
        self.assertEqual(snapshot.get_metric("process_memory.rss"), 1111)
        self.assertEqual(snapshot.get_metric("process_memory.vms"), 2222)
        self.assertEqual(snapshot.get_metric("tracemalloc.traced.size"), 3333)
        self.assertEqual(snapshot.get_metric("tracemalloc.traced.max_size"), 4444)
        self.assertEqual(snapshot.get_metric("tracemalloc.traces"), 6)

    def test_files(self):
        live = None
        t.set_traceback_limit(3)
        t.enable()
        data, _ = allocate(777)
        live = t.Snapshot.create(traces=True)
        live.add_metric("mine", 5, "int")
        made = t.Snapshot(NOW, 77, make_traces(), make_stats(),
                          {"p": t.Metric("p", 0.25, "percent"), "s": t.Metric("s", 9, "size")})
        odd = t.Snapshot(NOW, 77, {5: (1, ()), 2 ** 63 + 8: (2 ** 40, ((None, 3), ("\xe9", None)))},
                         {None: {None: (1, 1)}})
        no_traces = t.Snapshot(NOW, 77, None, make_stats())
        for snapshot in (live, made, odd, no_traces):
            for name in ("a.tms", "a.pickle", "other"):
                snapshot.write(self.path(name))
                self.assertEqual([n for n in os.listdir(self.folder) if n != name], [])
                back = t.Snapshot.load(self.path(name))
                self.assertEqual(back.traces, snapshot.traces)
                self.assertEqual(back.stats, snapshot.stats)
                self.assertEqual(back.metrics, snapshot.metrics)
                self.assertEqual({n: m.format for n, m in back.metrics.items()},
                                 {n: m.format for n, m in snapshot.metrics.items()})
                self.assertEqual(back.pid, snapshot.pid)
                self.assertEqual(back.timestamp, snapshot.timestamp)
                self.assertEqual(back.traceback_limit, snapshot.traceback_limit)
                back = t.Snapshot.load(self.path(name), traces=False)
                self.assertIsNone(back.traces)
                self.assertEqual(back.stats, snapshot.stats)
                os.unlink(self.path(name))

    @unittest.skipIf(sys.version_info < (3, 4), "no tracemalloc in the standard library")
    def test_standard_library_reads(self):
        import tracemalloc
        snapshot = t.Snapshot(NOW, 77, make_traces(), make_stats(), None)
        snapshot.write(self.path("a.pickle"))
        theirs = tracemalloc.Snapshot.load(self.path("a.pickle"))
        self.assertEqual(theirs.traceback_limit, 2)
        top = theirs.statistics("lineno")
        self.assertEqual((top[0].size, top[0].count), (66, 1))
        self.assertEqual((top[1].size, top[1].count), (30, 3))
        self.assertEqual(theirs.pid, 77)
        self.assertEqual(theirs.timestamp, NOW)
        self.assertEqual(theirs.stats, make_stats())
        length = 4 if sys.version_info >= (3, 9) else 3 if sys.version_info >= (3, 6) else 2
        self.assertEqual({len(trace) for trace in theirs.traces._traces}, {length})
        theirs.statistics("traceback")
        self.assertTrue(theirs.compare_to(theirs, "lineno"))

    @unittest.skipIf(sys.version_info < (3, 4), "no tracemalloc in the standard library")
    def test_reads_the_standard_library(self):
        import tracemalloc
        tracemalloc.start(3)
        keep = [allocate(1000 + i) for i in range(10)]
        theirs = tracemalloc.take_snapshot()
        tracemalloc.stop()
        theirs.dump(self.path("std"))
        ours = t.Snapshot.load(self.path("std"))
        self.assertEqual(len(ours.traces), len(theirs.traces))
        self.assertEqual(sum(size for size, _ in ours.traces.values()),
                         sum(trace.size for trace in theirs.traces))
        top = ours.top_by("line").stats
        for stat in theirs.statistics("lineno"):
            frame = stat.traceback[0]
            self.assertEqual(top[frame.filename, frame.lineno], (stat.size, stat.count))
        del keep

    def test_loading_executes_nothing(self):
        class Bad(object):
            def __reduce__(self):
                return (os.mkdir, (self.path,))
        bad = Bad()
        bad.path = self.path("made")
        for value in (bad, {"a": bad}, [1, 2], 5, {"format_version": "9"}):
            with open(self.path("a.pickle"), "wb") as file:
                pickle.dump(value, file)
            self.raises(TypeError, "invalid file format", t.Snapshot.load, self.path("a.pickle"))
            self.assertFalse(os.path.exists(bad.path))

    def test_bad_files(self):
        t.Snapshot(NOW, 77, make_traces(), make_stats()).write(self.path("good"))
        with open(self.path("good"), "rb") as file:
            good = file.read()
        newer = good[:8] + b"\x63" + good[9:]
        for content in (b"", b"hello", good[:-5], good[:40], good[:60] + b"\xff" + good[61:]):
            with open(self.path("bad"), "wb") as file:
                file.write(content)
            self.raises(TypeError, "invalid file format", t.Snapshot.load, self.path("bad"))
        with open(self.path("bad"), "wb") as file:
            file.write(newer)
        self.assertRaises(TypeError, t.Snapshot.load, self.path("bad"))
        self.assertRaises(FileError, t.Snapshot.load, self.path("absent"))

    def test_failed_write_leaves_nothing(self):
        snapshot = t.Snapshot(NOW, 77, make_traces(), make_stats())
        self.assertRaises(FileError, snapshot.write, self.path("no/such/folder"))
        for name in ("a.tms", "a.pickle"):
            bad = t.Snapshot(NOW, 77, make_traces(), make_stats(),
                             {"x": t.Metric("x", "no number", "int")})
            self.assertRaises(TypeError, bad.write, self.path(name))
        self.assertEqual(os.listdir(self.folder), [])
        self.assertRaises(FileError, snapshot.write, "/dev/full")

    def test_pickle_module(self):
        import copy
        snapshot = t.Snapshot(NOW, 77, make_traces(), make_stats())
        self.assertEqual(copy.deepcopy(snapshot).traces, make_traces())

    def test_apply_filters(self):
        snapshot = t.Snapshot(NOW, 77, make_traces(), make_stats())
        snapshot.apply_filters([])
        self.assertEqual(snapshot.traces, make_traces())
        snapshot.apply_filters([t.Filter(False, "b.py")])
        self.assertEqual(sorted(snapshot.traces), [0x10001, 0x10002, 0x10003, 0x20001, 0x40001])
        self.assertEqual(snapshot.stats, {"a.py": {2: (30, 3), 5: (2, 1)}, None: {None: (7, 1)}})
        snapshot.apply_filters([t.Filter(False, "a.py", 5)])
        self.assertEqual(snapshot.stats, {"a.py": {2: (30, 3)}, None: {None: (7, 1)}})
        self.assertNotIn(0x20001, snapshot.traces)
        snapshot.apply_filters([t.Filter(True, "a.py"), t.Filter(True, "z")])
        self.assertEqual(snapshot.stats, {"a.py": {2: (30, 3)}})
        snapshot.apply_filters([t.Filter(True, "b.py", 4, True)])
        self.assertEqual(len(snapshot.traces), 3)
        self.assertRaises(TypeError, snapshot.apply_filters, ["a"])

    def test_top_by(self):
        snapshot = make_snapshots()[0]
        top = snapshot.top_by("line")
        self.assertEqual(top.stats, {("a.py", 2): (30, 3), ("a.py", 5): (2, 1), ("b.py", 1): (66, 1),
                                     (None, None): (7, 1)})
        self.assertEqual((top.timestamp, top.group_by, top.cumulative), (NOW, "line", False))
        self.assertEqual(snapshot.top_by("filename").stats,
                         {"a.py": (32, 4), "b.py": (66, 1), None: (7, 1)})
        self.assertEqual(snapshot.top_by("address").stats,
                         {address: (size, 1) for address, (size, _) in make_traces().items()})
        self.assertEqual(snapshot.top_by("filename", True).stats,
                         {"a.py": (32, 4), "b.py": (98, 5), None: (7, 1)})
        self.assertTrue(snapshot.top_by("filename", True).cumulative)
        self.assertFalse(snapshot.top_by("address", True).cumulative)
        self.raises(ValueError, "unknown group_by value: 'zzz'", snapshot.top_by, "zzz")
        self.raises(ValueError, "need traces",
                    t.Snapshot(NOW, 1, None, make_stats()).top_by, "address")
        snapshot.traceback_limit = 1
        self.assertFalse(snapshot.top_by("line", True).cumulative)

    def test_recursion_counts_twice(self):
        snapshot = t.Snapshot(NOW, 1, {1: (10, (("a", 1), ("a", 1), ("a", 2)))}, None)
        self.assertEqual(snapshot.top_by("line", True).stats,
                         {("a", 1): (20, 2), ("a", 2): (10, 1)})
        self.assertEqual(snapshot.top_by("filename", True).stats, {"a": (30, 3)})

    def test_changed_dictionaries_count(self):
        t.enable()
        snapshot = t.Snapshot.create(traces=True)
        snapshot.traces.clear()
        snapshot.traces[7] = (99, (("new", 1),))
        self.assertEqual(snapshot.top_by("address").stats, {7: (99, 1)})

    def test_compare(self):
        first, second = make_snapshots()
        diff = second.top_by("line").compare_to(first.top_by("line"))
        diff.sort()
        expected = [
            (5000, 5002, 1, 2, ("a.py", 5)), (400, 400, 1, 1, ("c.py", 578)),
            (-7, 0, -1, 0, ("", 0)), (0, 66, 0, 1, ("b.py", 1)), (0, 30, 0, 3, ("a.py", 2))]
        self.assertEqual(diff.differences, expected)
        self.assertIs(type(diff.new_stats), t.GroupedStats)
        # The same where the dictionaries are Python's.
        grouped = [t.GroupedStats(s.timestamp, s.top_by("line").stats, "line")
                   for s in (first, second)]
        diff = grouped[1].compare_to(grouped[0])
        diff.sort()
        self.assertEqual(diff.differences, expected)
        diff = second.top_by("filename").compare_to()
        diff.sort()
        self.assertEqual(diff.differences, [
            (0, 5032, 0, 5, "a.py"), (0, 400, 0, 1, "c.py"), (0, 66, 0, 1, "b.py")])
        self.assertIsNone(diff.old_stats)


class Display(Case):
    def show(self, display, *args, **kwargs):
        out = TextOut()
        display(*args, file=out, **kwargs)
        return out.getvalue()

    def test_diff(self):
        first, second = make_snapshots()
        first.add_metric("m.size", 5119, "size")
        second.add_metric("m.size", 5120, "size")
        second.add_metric("a.percent", 0.25, "percent")
        first.add_metric("gone", 7, "int")
        top = t.DisplayTop()
        self.assertEqual(self.show(top.display_snapshot, first, 2), (
            "2013-10-03 11:34:39: Top 2 allocations per filename and line number\n"
            "#1: b.py:1: size=66 B, count=1\n"
            "#2: a.py:2: size=30 B, count=3, average=10 B\n"
            "2 more: size=9 B, count=2, average=4 B\n"
            "Traced Python memory: size=105 B, count=6, average=17 B\n"
            "\n"
            "gone: 7\n"
            "m.size: 5119 B\n"
            "\n"))
        self.assertEqual(self.show(top.display_snapshot, second, 3), (
            "2013-10-03 11:34:45: Top 3 allocations per filename and line number"
            " (compared to 2013-10-03 11:34:39)\n"
            "#1: a.py:5: size=5002 B (+5000 B), count=2 (+1), average=2501 B\n"
            "#2: c.py:578: size=400 B (+400 B), count=1 (+1)\n"
            "#3: ???:?: size=0 B (-7 B), count=0 (-1)\n"
            "2 more: size=96 B (+0 B), count=4 (+0), average=24 B\n"
            "Traced Python memory: size=5 KiB (+5 KiB), count=7 (+1), average=785 B\n"
            "\n"
            "a.percent: 25.0%\n"
            "gone: 0 (-7)\n"
            "m.size: 5 KiB (+1 B)\n"
            "\n"))

    def test_options(self):
        first, second = make_snapshots()
        top = t.DisplayTop()
        top.count = top.average = False
        self.assertEqual(self.show(top.display_snapshot, first, 1, "filename"), (
            "2013-10-03 11:34:39: Top 1 allocations per filename\n"
            "#1: b.py: 66 B\n"
            "2 more: 39 B\n"
            "Traced Python memory: 105 B\n"
            "\n"))
        top = t.DisplayTop()
        self.assertEqual(self.show(top.display_snapshot, first, 1, "address"), (
            "2013-10-03 11:34:39: Top 1 allocations per address\n"
            "#1: memory block 0x30001: size=66 B\n"
            "5 more: size=39 B, average=7 B\n"
            "Traced Python memory: size=105 B, average=17 B\n"
            "\n"))
        top = t.DisplayTop()
        self.assertEqual(self.show(top.display_snapshot, first, 1, "filename", True), (
            "2013-10-03 11:34:39: Cumulative top 1 allocations per filename\n"
            "#1: b.py: size=98 B, count=5, average=19 B\n"
            "2 more: size=39 B, count=5, average=7 B\n"
            "\n"))

    def test_second_display_without_metrics(self):
        top = t.DisplayTop()
        for _ in range(2):
            grouped = t.GroupedStats(NOW, {("a", 1): (1, 1)}, "line", metrics=None)
            self.assertIn("a:1", self.show(top.display_top_stats, grouped))

    def test_compare_to_first(self):
        first, second = make_snapshots()
        top = t.DisplayTop()
        top.compare_to_previous = False
        for snapshot in (first, second, second):
            text = self.show(top.display_snapshot, snapshot)
        self.assertIn("(compared to 2013-10-03 11:34:39)", text)

    def test_color(self):
        first, second = make_snapshots()
        top = t.DisplayTop()
        top.color = True
        text = self.show(top.display_snapshot, first, 1)
        self.assertIn("\033[1m2013-10-03 11:34:39\033[0m: \033[36mTop 1", text)
        self.assertIn("\033[33m66 B\033[0m", text)
        text = self.show(top.display_snapshot, second, 1)
        self.assertIn("\033[1m5002 B\033[0m (\033[33m+5000 B\033[0m)", text)

        class Terminal(TextOut):
            def isatty(self):
                return True
        top = t.DisplayTop()
        out = Terminal()
        os.environ["NO_COLOR"] = "1"
        try:
            top.display_snapshot(first, file=out)
        finally:
            del os.environ["NO_COLOR"]
        self.assertNotIn("\033", out.getvalue())
        top.display_snapshot(first, file=out)
        self.assertIn("\033", out.getvalue())

    def test_filenames(self):
        top = t.DisplayTop()
        for name, expected in (("a/b/c.py", "a/b/c.py"), ("a/b/c/d.py", ".../b/c/d.py"),
                               ("/b/c.py", "/b/c.py"), ("/a/b/c.py", ".../a/b/c.py"),
                               ("", "???")):
            grouped = t.GroupedStats(NOW, {name: (1, 1)}, "filename")
            self.assertIn("#1: %s: " % expected, self.show(top.display_top_stats, grouped))

    def test_sizes(self):
        top = t.DisplayTop()
        top.count = top.average = False
        for size, expected in ((0, "0 B"), (5119, "5119 B"), (5120, "5 KiB"),
                               (5 * 1024 ** 2 - 1, "5119 KiB"), (5 * 1024 ** 2, "5 MiB"),
                               (5 * 1024 ** 3, "5 GiB"), (5 * 1024 ** 4, "5 TiB"),
                               (9000 * 1024 ** 4, "9000 TiB")):
            grouped = t.GroupedStats(NOW, {"a": (size, 1)}, "filename")
            top.previous_top_stats = None
            self.assertIn("#1: a: %s\n" % expected, self.show(top.display_top_stats, grouped))

    def test_display(self):
        t.enable()
        seen = []
        snapshot = None
        out = TextOut()
        saved, sys.stdout = sys.stdout, out
        try:
            snapshot = t.DisplayTop().display(2, callback=seen.append)
        finally:
            sys.stdout = saved
        self.assertEqual(seen, [snapshot])
        self.assertIn("allocations per filename and line number", out.getvalue())

    def test_the_analyzer_says_the_same(self):
        import subprocess
        from behaviours import __file__ as here
        analyze = os.path.join(os.environ.get("TM_BIN_DIR", ""), "tm-analyze")
        if not os.path.exists(analyze):
            self.skipTest("no tm-analyze")
        first, second = make_snapshots()
        first.add_metric("m.size", 5119, "size")
        second.add_metric("m.size", 512000, "size")
        first.write(self.path("1.tms"))
        second.write(self.path("2.pickle"))
        with open(os.devnull, "w") as null:
            out = subprocess.check_output([analyze, self.path("1.tms"), self.path("2.pickle")],
                                          stderr=null).decode()
        top = t.DisplayTop()
        self.assertEqual(out, self.show(top.display_snapshot, first) +
                         self.show(top.display_snapshot, second))


if __name__ == "__main__":
    unittest.main()
