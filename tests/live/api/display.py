# SPDX-License-Identifier: MIT
"""Runs under every Python: what is displayed of snapshots."""
import os
import sys
import unittest

import pytracemalloc as t
from case import Case, allocate
from invented import LATER, NOW, make_snapshots
from old import TextOut


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

    def test_count(self):
        first = make_snapshots()[0]
        text = self.show(t.DisplayTop().display_snapshot, first, 99, "filename")
        self.assertIn("Top 3 allocations per filename\n#1: ", text)
        self.assertNotIn(" more", text)
        text = self.show(t.DisplayTop().display_snapshot, first, 0, "filename")
        self.assertIn("Top 0 allocations per filename\n3 more: size=105 B", text)
        grouped = t.GroupedStats(NOW, {"a": (0, 0), "b": (5, 1)}, "filename")
        text = self.show(t.DisplayTop().display_top_stats, grouped)
        self.assertIn("#1: b: size=5 B, count=1\n#2: a: size=0 B\n", text)

    def test_hidden_size(self):
        top = t.DisplayTop()
        top.size = False
        text = self.show(top.display_snapshot, make_snapshots()[0], 2)
        self.assertIn("#1: b.py:1: count=1\n#2: a.py:2: count=3, average=10 B\n2 more: ", text)
        top.count = top.average = False
        top.previous_top_stats = None
        self.assertIn("#1: b.py:1\n", self.show(top.display_snapshot, make_snapshots()[0], 2))

    def test_previous(self):
        first, second = make_snapshots()
        for to_previous in (True, False):
            top = t.DisplayTop()
            top.compare_to_previous = to_previous
            tops = [first.top_by("line"), second.top_by("line")]
            for one in tops:
                self.show(top.display_top_stats, one)
            self.assertIs(top.previous_top_stats, tops[to_previous])

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

    def test_colors_of_all(self):
        bold, cyan, yellow = ("\033[%sm%%s\033[0m" % code for code in ("1", "36", "33"))
        stats = [{"/x/a.py": (50, 2), "b.py": (9, 1), "c.py": (3, 1)},
                 {"/x/a.py": (90, 3), "b.py": (9, 1), "c.py": (3, 1)}]
        top = t.DisplayTop()
        top.color = True
        shown = []
        for one, timestamp in zip(stats, (NOW, LATER)):
            metrics = {"m": t.Metric("m", len(shown) + 1, "int")}
            grouped = t.GroupedStats(timestamp, one, "filename", metrics=metrics)
            shown.append(self.show(top.display_top_stats, grouped, 1))
        self.assertEqual(shown[0], (
            bold % "2013-10-03 11:34:39" + ": " + cyan % "Top 1 allocations per filename" + "\n"
            "#1: " + cyan % "/x/" + "a.py: size=" + yellow % "50 B" + ", count=2, average=25 B\n"
            + cyan % "2 more" + ": size=" + yellow % "12 B" + ", count=2, average=6 B\n"
            "Traced Python memory: size=" + yellow % "62 B" + ", count=4, average=15 B\n"
            "\nm: " + bold % "1" + "\n\n"))
        self.assertEqual(shown[1], (
            bold % "2013-10-03 11:34:45" + ": " + cyan % "Top 1 allocations per filename"
            + " (compared to " + bold % "2013-10-03 11:34:39" + ")\n"
            "#1: " + cyan % "/x/" + "a.py: size=" + bold % "90 B" + " (" + yellow % "+40 B"
            + "), count=3 (+1), average=30 B\n"
            + cyan % "2 more" + ": size=" + bold % "12 B" + " (" + yellow % "+0 B"
            + "), count=2 (+0), average=6 B\n"
            "Traced Python memory: size=" + bold % "102 B" + " (" + yellow % "+40 B"
            + "), count=5 (+1), average=20 B\n"
            "\nm: " + bold % "2" + " (+1)\n\n"))
        grouped = t.GroupedStats(NOW, {0x1f: (1, 1)}, "address")
        top.previous_top_stats = None
        self.assertIn("#1: memory block " + bold % "0x1f" + ": size=" + yellow % "1 B" + "\n",
                      self.show(top.display_top_stats, grouped))

    def test_lines_that_are_unknown(self):
        stats = {("a", None): (4, 1), ("b", 0): (3, 1), (None, 5): (2, 1), (None, None): (1, 1)}
        text = self.show(t.DisplayTop().display_top_stats, t.GroupedStats(NOW, stats, "line"))
        for i, name in enumerate(("a:?", "b:?", "???:5", "???:?")):
            self.assertIn("#%d: %s: size=" % (i + 1, name), text)

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

    def test_differences_of_sizes(self):
        for change, expected in ((-5119, "-5119 B"), (-5121, "-5 KiB"), (-6143, "-5 KiB"),
                                 (6143, "+5 KiB"), (0, "+0 B"), (-5 * 1024 ** 3, "-5 GiB")):
            top = t.DisplayTop()
            for size in (6 * 1024 ** 3, 6 * 1024 ** 3 + change):
                grouped = t.GroupedStats(NOW, {"a": (size, 1)}, "filename")
                text = self.show(top.display_top_stats, grouped)
            self.assertIn(" (%s), count=1 (+0)\n" % expected, text)

    def test_display_cumulative(self):
        t.set_traceback_limit(3)
        t.enable()
        data, frame = allocate(123456)
        out = TextOut()
        snapshot = t.DisplayTop().display(5, cumulative=True, file=out)
        self.assertIn(": Cumulative top 5 allocations per filename and line number\n",
                      out.getvalue())
        self.assertIs(type(snapshot), t.Snapshot)
        for group_by, noun in (("filename", "filename"), ("address", "address")):
            t.DisplayTop().display(2, group_by=group_by, file=out)
            self.assertIn(": Top 2 allocations per %s\n" % noun, out.getvalue())
        self.assertRaises(ValueError, t.DisplayTop().display, 2, "zzz", file=out)

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
