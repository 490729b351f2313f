# SPDX-License-Identifier: MIT
"""Runs under every Python: snapshots, their files and groups."""
import os
import pickle
import struct
import sys
import unittest
from datetime import datetime

import pytracemalloc as t
from case import Case, allocate
from invented import LATER, NOW, make_snapshots, make_stats, make_traces
from old import COUNTS_ARENAS, FileError, TextOut


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in bytearray(data):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


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
        if not COUNTS_ARENAS:
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

    def test_create_asks_for_each_of_them(self):
        names = ["get_traced_memory", "get_tracemalloc_memory", "get_process_memory",
                 "get_traceback_limit", "is_enabled"] + ["get_arena_size"] * COUNTS_ARENAS
        t.set_traceback_limit(3)
        t.enable()
        for name in names:
            saved, asked = getattr(t, name), []
            setattr(t, name, lambda: asked.append(1) or (
                True if name == "is_enabled" else
                77 if name in ("get_arena_size", "get_traceback_limit") else (5000, 1000)))
            try:
                snapshot = t.Snapshot.create(traces=True)
            finally:
                setattr(t, name, saved)
            self.assertTrue(asked, name)
            self.assertEqual(snapshot.traceback_limit, 77 if name == "get_traceback_limit" else 3)
            if name == "get_tracemalloc_memory":
                self.assertEqual(snapshot.get_metric("tracemalloc.module.size"), 5000)
                self.assertEqual(snapshot.get_metric("tracemalloc.module.free"), 1000)
                self.assertEqual(snapshot.get_metric("tracemalloc.module.fragmentation"), 0.2)
            elif name == "get_arena_size":
                self.assertEqual(snapshot.get_metric("tracemalloc.arena_size"), 77)

    def test_no_fragmentation_of_nothing(self):
        saved = t.get_tracemalloc_memory
        t.get_tracemalloc_memory = lambda: (0, 0)
        t.enable()
        try:
            metrics = t.Snapshot.create().metrics
        finally:
            t.get_tracemalloc_memory = saved
        self.assertEqual(metrics["tracemalloc.module.size"].value, 0)
        self.assertNotIn("tracemalloc.module.fragmentation", metrics)

    def test_no_process_memory(self):
        saved = t.get_process_memory
        t.get_process_memory = lambda: None
        t.enable()
        try:
            metrics = t.Snapshot.create().metrics
        finally:
            t.get_process_memory = saved
        self.assertNotIn("process_memory.rss", metrics)
        self.assertIn("tracemalloc.traced.size", metrics)

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
        newer = good[:8] + b"\x63" + good[9:24]
        newer += struct.pack("<I", crc32c(newer)) + good[28:]
        for content in (b"", b"hello", good[:-5], good[:40], good[:60] + b"\xff" + good[61:]):
            with open(self.path("bad"), "wb") as file:
                file.write(content)
            self.raises(TypeError, "invalid file format", t.Snapshot.load, self.path("bad"))
        with open(self.path("bad"), "wb") as file:
            file.write(newer)
        self.raises(TypeError, "unknown format version", t.Snapshot.load, self.path("bad"))
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

    def test_names_of_files(self):
        snapshot = t.Snapshot(NOW, 77, make_traces(), make_stats())
        names = [self.path("a.tms"), self.path("b.pickle").encode(), self.path(u"\u20ac.pickle")]
        if sys.version_info >= (3, 6):
            import pathlib
            names += [pathlib.Path(self.path("c.tms")), self.path("\udc80.tms")]
        if sys.version_info < (3,):
            names[2] = names[2].encode("utf-8")
        for name in names:
            snapshot.write(name)
            self.assertEqual(t.Snapshot.load(name).traces, make_traces())
            os.unlink(name)
        self.raises(ValueError, "embedded null byte", snapshot.write, self.path("a\0b"))
        for wrong in (None, 5):
            self.assertRaises(TypeError, snapshot.write, wrong)
            self.assertRaises(TypeError, t.Snapshot.load, wrong)
        self.assertEqual(os.listdir(self.folder), [])

    def test_timestamps(self):
        for wrong in (datetime(1950, 1, 2), datetime(9999, 12, 30)):
            snapshot = t.Snapshot(wrong, 77, None, make_stats())
            self.assertRaises((OverflowError, ValueError), snapshot.write, self.path("a"))
        self.assertEqual(os.listdir(self.folder), [])

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

    def test_file_without_lines_goes(self):
        snapshot = t.Snapshot(NOW, 77, make_traces(), make_stats())
        snapshot.apply_filters([t.Filter(False, "b.py", 1)])
        self.assertEqual(snapshot.stats, {"a.py": {2: (30, 3), 5: (2, 1)}, None: {None: (7, 1)}})

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

    def test_order(self):
        """abs(size_diff), size, abs(count_diff), count, key: each in its turn."""
        expected = [(-9, 1, 0, 1, "a"), (8, 2, 0, 1, "a"), (8, 1, -5, 1, "a"), (-8, 1, 4, 2, "a"),
                    (8, 1, -4, 1, "b"), (-8, 1, 4, 1, "a"), (0, 99, 99, 99, "z")]
        for rows in (expected[::-1], expected[3:] + expected[:3], list(expected)):
            diff = t.StatsDiff(rows, None, t.GroupedStats(NOW, {}, "filename"))
            diff.sort()
            self.assertEqual(diff.differences, expected)
        stats = [dict((chr(97 + i % 26) + str(i), (i * 7 % 5, 1 + i % 3)) for i in range(n, n + 90))
                 for n in (0, 40)]
        top = [t.Snapshot(NOW, 1, None, {name: {1: pair} for name, pair in one.items()})
               .top_by("filename") for one in stats]
        diff = top[1].compare_to(top[0])  # by C
        diff.sort()
        by_python = t.StatsDiff(list(diff.differences)[::-1], None, top[1])
        by_python.sort()
        self.assertEqual(diff.differences, by_python.differences)
        self.assertEqual(len(diff.differences), 130)

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


if __name__ == "__main__":
    unittest.main()
