# SPDX-License-Identifier: MIT
"""Runs under every Python: filters."""
import unittest
from datetime import datetime

import pytracemalloc as t
from case import Case, allocate


class Filters(Case):
    def test_attributes(self):
        f = t.Filter(True, "abc", 5, True)
        self.assertEqual((f.include, f.pattern, f.lineno, f.traceback), (True, "abc", 5, True))
        f = t.Filter(False, pattern="a")
        self.assertEqual((f.include, f.pattern, f.lineno, f.traceback), (False, "a", None, False))
        self.assertEqual(t.Filter(True, filename="a"), t.Filter(True, pattern="a"))
        for lineno in (None, 0, -5):
            self.assertIsNone(t.Filter(True, "a", lineno).lineno)
        for name in ("include", "pattern", "lineno", "traceback", "other"):
            self.assertRaises(AttributeError, setattr, f, name, 1)
        self.raises(TypeError, "filename pattern must be a str, not int", t.Filter, True, 3)

    def test_repr(self):
        self.assertEqual(
            repr(t.Filter(True, "a")),
            "<pytracemalloc.Filter include=True pattern='a' lineno=None traceback=False>")

    def test_equality(self):
        self.assertEqual(t.Filter(True, "a", 1), t.Filter(True, "a", 1))
        self.assertEqual(hash(t.Filter(True, "a", 1)), hash(t.Filter(True, "a", 1)))
        for other in (t.Filter(False, "a", 1), t.Filter(True, "b", 1), t.Filter(True, "a", 2),
                      t.Filter(True, "a", 1, True), 5):
            self.assertNotEqual(t.Filter(True, "a", 1), other)

    def test_match_filename(self):
        for include in (True, False):
            f = t.Filter(include, "abc")
            self.assertIs(f.match_filename("abc"), include)
            self.assertIs(f.match_filename("abcd"), not include)
            self.assertIs(f.match_filename(None), not include)
            self.assertRaises(TypeError, f.match_filename, 3)
            self.raises(TypeError, "filename must be a str or None", f.match_filename, b"" and 1 or 3)
            self.assertIs(t.Filter(include, "abc", 5).match_filename("abc"), include)

    def test_match_lineno(self):
        for include in (True, False):
            f = t.Filter(include, "abc")
            for lineno in (None, 0, 5):
                self.assertIs(f.match_lineno(lineno), include)
            f = t.Filter(include, "abc", 5)
            self.assertIs(f.match_lineno(5), include)
            for lineno in (None, 0, -1, 4):
                self.assertIs(f.match_lineno(lineno), not include)

    def test_match(self):
        for include in (True, False):
            f = t.Filter(include, "abc", 5)
            self.assertIs(f.match("abc", 5), include)
            for filename, lineno in (("abc", 4), ("abc", None), ("ab", 5), (None, 5), (None, None)):
                self.assertIs(f.match(filename, lineno), not include)

    def test_match_traceback(self):
        tb = (("a", 1), ("b", 2))
        self.assertTrue(t.Filter(True, "a").match_traceback(tb))
        self.assertFalse(t.Filter(True, "b").match_traceback(tb))
        self.assertTrue(t.Filter(True, "b", None, True).match_traceback(tb))
        self.assertTrue(t.Filter(True, "b", 2, True).match_traceback(tb))
        self.assertFalse(t.Filter(True, "b", 1, True).match_traceback(tb))
        self.assertFalse(t.Filter(False, "b", None, True).match_traceback(tb))
        self.assertTrue(t.Filter(False, "b").match_traceback(tb))
        self.assertTrue(t.Filter(False, "c", None, True).match_traceback(tb))
        self.assertFalse(t.Filter(True, "a").match_traceback(()))
        self.assertTrue(t.Filter(False, "a").match_traceback(()))
        self.raises(TypeError, "traceback must be a tuple", t.Filter(True, "a").match_traceback, [])
        for wrong in ((1,), ([1, 2],), (("a",),)):
            self.raises(TypeError, "frames must be 2-tuples",
                        t.Filter(True, "a").match_traceback, wrong)

    def test_patterns(self):
        def matches(pattern, name):
            return t.Filter(True, pattern).match_filename(name)

        for pattern, name, expected in (
                ("a.py", "x/a.pyc", False), ("a.py", "a.pyc", True), ("a.pyo", "a.py", True),
                ("*a.py", "x/a.pyc", True), ("a*c", "abc", True), ("a*c", "ac", True),
                ("a*c", "acd", False), ("***", "anything", True), ("a***b", "axb", True),
                ("A", "a", False), ("*ab*ba", "abcba", True), ("*ab*ba", "aba", False),
                ("a?c", "abc", False), ("[a]", "a", False), ("", "", True)):
            self.assertIs(matches(pattern, name), expected, (pattern, name))
        self.assertEqual(t.Filter(True, "a.pyc").pattern, "a.py")
        self.assertEqual(t.Filter(True, "a**b").pattern, "a*b")
        self.assertEqual(t.Filter(True, "*" * 10 ** 6).pattern, "*")
        t.Filter(True, "a*" * 100)
        self.raises(ValueError, "too many joker characters in the filename pattern",
                    t.Filter, True, "a*" * 101)
        self.assertFalse(matches("*a" * 100, "a" * 99 + "b"))

    def test_list(self):
        self.assertEqual(t.get_filters(), [])
        t.add_exclude_filter("x", 5)
        t.add_include_filter("a", 3, True)
        t.add_filter(t.Filter(True, "b"))
        t.add_filter(t.Filter(True, "b"))
        expected = [t.Filter(True, "a", 3, True), t.Filter(True, "b"), t.Filter(False, "x", 5)]
        self.assertEqual(t.get_filters(), expected)
        t.enable()
        t.disable()
        self.assertEqual(t.get_filters(), expected)
        self.assertRaises(TypeError, t.add_filter, "a")
        t.clear_filters()
        self.assertEqual(t.get_filters(), [])

    def test_live(self):
        t.add_exclude_filter(*allocate(100)[1])
        t.enable()
        data, frame = allocate(10001)
        self.assertIsNone(t.get_object_trace(data))
        t.clear_filters()
        data, frame = allocate(10001)
        self.assertIsNotNone(t.get_object_trace(data))
        t.add_include_filter("nothing like this")
        data, frame = allocate(10001)
        self.assertIsNone(t.get_object_trace(data))
        t.add_include_filter(frame[0])
        data, frame = allocate(10001)
        self.assertIsNotNone(t.get_object_trace(data))

    def test_traces_that_exist_stay(self):
        t.enable()
        data, frame = allocate(10001)
        t.add_exclude_filter(frame[0])
        self.assertEqual(t.get_object_trace(data), (10001, (frame,)))
        self.assertIsNone(t.get_object_trace(allocate(10001)[0]))
        t.clear_traces()
        self.assertIsNone(t.get_object_trace(data))

    def test_all_together(self):
        """(no includes, or any include matches) and every exclude keeps."""
        names = ["a", "b", "c", None]
        include, exclude = (lambda name: t.Filter(True, name)), (lambda name: t.Filter(False, name))
        for filters, kept in (
                ([], ["a", "b", "c", None]),
                ([include("a")], ["a"]),
                ([include("a"), include("b")], ["a", "b"]),
                ([exclude("a")], ["b", "c", None]),
                ([exclude("a"), exclude("b")], ["c", None]),
                ([exclude("a"), include("a"), include("b")], ["b"]),
                ([include("z")], [])):
            traces = dict((i, (1, ((name, 1),))) for i, name in enumerate(names))
            stats = dict((name, {1: (1, 1)}) for name in names)
            snapshot = t.Snapshot(datetime.now(), 1, traces, stats)
            snapshot.apply_filters(filters)
            self.assertEqual([names[i] for i in sorted(snapshot.traces)], kept)
            self.assertEqual([name for name in names if name in snapshot.stats], kept)

    def test_live_traceback(self):
        def special():
            return allocate(10001)

        t.set_traceback_limit(5)
        t.add_filter(t.Filter(False, __file__, special.__code__.co_firstlineno + 1, True))
        t.enable()
        self.assertIsNone(t.get_object_trace(special()[0]))
        self.assertIsNotNone(t.get_object_trace(allocate(10001)[0]))


if __name__ == "__main__":
    unittest.main()
