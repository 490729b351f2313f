# SPDX-License-Identifier: MIT
"""Runs under every Python: what the API does where its document is silent."""
import copy
import gc
import os
import pickle
import sys
import tempfile
import unittest
from datetime import datetime

import pytracemalloc as t
from old import SEES_ALL, intern, zeros

EMPTY = ()
HERE = Ellipsis


def allocate(size):
    """bytes of exactly `size` bytes of memory, and its frame."""
    data = b"x" * (size - sys.getsizeof(b""))
    return data, (__file__, allocate.__code__.co_firstlineno + 2)


class Case(unittest.TestCase):
    def setUp(self):
        t.disable()
        t.clear_filters()
        t.set_traceback_limit(1)
        self.folder = tempfile.mkdtemp()

    def tearDown(self):
        t.disable()
        t.clear_filters()
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def raises(self, kind, message, func, *args, **kwargs):
        with self.assertRaises(kind) as context:
            func(*args, **kwargs)
        if message is not None:
            self.assertEqual(str(context.exception), message)


class Tracing(Case):
    def test_enable_disable_idempotent(self):
        t.enable()
        t.enable()
        self.assertIs(t.is_enabled(), True)
        t.disable()
        t.disable()
        self.assertIs(t.is_enabled(), False)

    def test_enable_zeroes(self):
        t.enable()
        keep = allocate(100000)
        self.assertGreater(t.get_traced_memory()[0], 99999)
        t.disable()
        self.assertEqual(t.get_traced_memory(), (0, 0))
        t.enable()
        self.assertLess(t.get_traced_memory()[0], 5000)
        del keep

    def test_disabled_is_empty(self):
        t.enable()
        data, _ = allocate(1000)
        address = t.get_object_address(data)
        t.disable()
        self.assertEqual(t.get_stats(), {})
        self.assertEqual(t.get_traces(), {})
        self.assertIsNone(t.get_trace(address))
        self.assertIsNone(t.get_object_trace(data))
        t.clear_traces()

    def test_limit_survives(self):
        t.set_traceback_limit(7)
        t.enable()
        t.disable()
        self.assertEqual(t.get_traceback_limit(), 7)

    def test_clear_traces(self):
        t.enable()
        data, _ = allocate(123456)
        self.assertGreater(t.get_traced_memory()[1], 123455)
        t.clear_traces()
        size, peak = t.get_traced_memory()
        self.assertLess(size, 5000)
        self.assertLess(peak, 5000)
        self.assertIsNone(t.get_object_trace(data))
        self.assertTrue(t.is_enabled())
        del data
        self.assertGreaterEqual(t.get_traced_memory()[0], 0)

    def test_requested_size_and_frame(self):
        t.enable()
        data, frame = allocate(12345)
        self.assertEqual(t.get_object_trace(data), (12345, (frame,)))
        self.assertEqual(t.get_trace(t.get_object_address(data)), (12345, (frame,)))
        self.assertEqual(t.get_traces()[t.get_object_address(data)], (12345, (frame,)))
        size, count = t.get_stats()[frame[0]][frame[1]]
        self.assertGreaterEqual(size, 12345)
        self.assertGreaterEqual(count, 1)

    @unittest.skipUnless(SEES_ALL, "2.7 takes the text of a bytearray by malloc")
    def test_realloc_attributes_anew(self):
        t.enable()
        data = bytearray(100)
        line = sys._getframe().f_lineno + 1
        data.extend(b"x" * 100000)
        found = [trace for trace in t.get_traces().values()
                 if trace[0] >= 100100 and trace[1] == ((__file__, line),)]
        self.assertEqual(len(found), 1)
        del data

    def test_untraced_free(self):
        data = [zeros(1000) for _ in range(100)]
        t.enable()
        before = t.get_traced_memory()[0]
        del data
        self.assertLess(abs(t.get_traced_memory()[0] - before), 3000)

    def test_tracebacks(self):
        def one(n):
            return allocate(n) if n % 2 else two(n)

        def two(n):
            return allocate(n)

        t.set_traceback_limit(3)
        t.enable()
        data, frame = one(10001)
        size, traceback = t.get_object_trace(data)
        self.assertEqual(len(traceback), 3)
        self.assertEqual(traceback[0], frame)
        self.assertEqual(traceback[1], (__file__, one.__code__.co_firstlineno + 1))
        self.assertIsInstance(traceback, tuple)

    def test_limit_zero(self):
        t.set_traceback_limit(0)
        t.enable()
        data, _ = allocate(4321)
        self.assertEqual(t.get_object_trace(data), (4321, ()))
        stats = t.get_stats()
        self.assertEqual(list(stats), [None])
        self.assertEqual(list(stats[None]), [None])

    def test_limit_range(self):
        for wrong in (-1, 10 ** 9, -10 ** 30, 10 ** 30):
            with self.assertRaises(ValueError) as context:
                t.set_traceback_limit(wrong)
            self.assertRegex(str(context.exception),
                             r"^the number of frames must be in range \[0; \d+\]$")
        self.assertRaises(TypeError, t.set_traceback_limit, "1")
        t.set_traceback_limit(100)
        self.assertEqual(t.get_traceback_limit(), 100)

    def test_limit_is_for_new_traces(self):
        def deep(n):
            return allocate(2000) if n == 0 else deep(n - 1)

        t.set_traceback_limit(2)
        t.enable()
        first = deep(6)
        t.set_traceback_limit(5)
        second = deep(6)
        self.assertEqual(len(t.get_object_trace(first[0])[1]), 2)
        self.assertEqual(len(t.get_object_trace(second[0])[1]), 5)

    def test_unknown_frames_are_none(self):
        """A line below 1 is None, and so is a file without a name."""
        import ast
        tree = ast.parse("data = letter * 30001")
        for node in ast.walk(tree):
            if hasattr(node, "lineno"):
                node.lineno = node.end_lineno = 0 if sys.version_info >= (3, 11) else -1
        t.enable()
        for filename, expected in (("some.py", "some.py"), ("", None)):
            space = {"letter": b"x"}
            code = compile(tree, filename, "exec")
            if sys.version_info[:2] == (3, 10):  # its compiler begins at 1 whatever it is told
                code = code.replace(co_firstlineno=0)
            exec(code, space)
            size, traceback = t.get_object_trace(space["data"])
            self.assertEqual(traceback, ((expected, None),))
            self.assertIn(None, t.get_stats()[expected])

    @unittest.skipUnless(SEES_ALL, "2.7 has no such functions")
    def test_all_domains(self):
        try:
            import ctypes
        except ImportError:
            self.skipTest("no ctypes")
        t.enable()
        for domain in ("PyMem_Raw", "PyMem_", "PyObject_"):
            calls = {}
            for name, result, arguments in (
                    ("Malloc", ctypes.c_void_p, (ctypes.c_size_t,)),
                    ("Calloc", ctypes.c_void_p, (ctypes.c_size_t, ctypes.c_size_t)),
                    ("Realloc", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)),
                    ("Free", None, (ctypes.c_void_p,))):
                if name == "Calloc" and sys.version_info < (3, 5):
                    continue  # it came with 3.5
                calls[name] = getattr(ctypes.pythonapi, domain + name)
                calls[name].restype, calls[name].argtypes = result, arguments
            block = calls["Malloc"](12345)
            self.assertEqual(t.get_trace(block)[0], 12345, domain)
            block = calls["Realloc"](block, 23456)
            self.assertEqual(t.get_trace(block)[0], 23456, domain)
            before = t.get_traced_memory()[0]
            calls["Free"](block)
            self.assertIsNone(t.get_trace(block), domain)
            self.assertLess(t.get_traced_memory()[0], before - 20000)
            if "Calloc" not in calls:
                continue
            block = calls["Calloc"](11, 1000)
            self.assertEqual(t.get_trace(block)[0], 11000, domain)
            calls["Free"](block)

    def test_equal_tracebacks_are_one_object(self):
        t.set_traceback_limit(4)
        t.enable()
        keep = [allocate(1000 + i)[0] for i in range(20)]
        traces = t.get_traces()
        tracebacks = {}
        for size, traceback in traces.values():
            self.assertIs(tracebacks.setdefault(traceback, traceback), traceback)
        del keep

    def test_own_work_is_not_traced(self):
        t.enable()
        for _ in range(3):
            t.get_traces()
            t.get_stats()
            t.Snapshot.create(traces=True).top_by("line").stats
            t.get_filters()
        own = t.__file__
        self.assertEqual([name for name in t.get_stats() if name and name.startswith(own[:-3])], [])

    def test_object_address(self):
        class Slots(object):
            __slots__ = ("a",)

        class Plain(object):
            pass

        t.enable()
        made = [Slots(), Plain(), [1], {}, (1, object()), set(), zeros(150), 10 ** 50, object(),
                type("X", (), {})]
        for value in made:
            if isinstance(value, tuple):
                continue  # may come from a free list
            trace = t.get_object_trace(value)
            if trace is None:
                continue  # the same
            self.assertGreaterEqual(trace[0], type(value).__basicsize__ // 2)
        self.assertIsNotNone(t.get_object_trace(made[0]))
        self.assertIsNotNone(t.get_object_trace(made[1]))
        self.assertIsNotNone(t.get_object_trace(made[6]))
        self.assertLessEqual(t.get_object_address(made[2]), id(made[2]))
        self.assertEqual(t.get_object_address(made[6]), id(made[6]))

    def test_object_address_is_the_block(self):
        """What lies before an object: the GC head, and from 3.11 on its __dict__ and weakrefs."""
        class Plain(object):
            pass

        class Slots(object):
            __slots__ = ("a",)

        # PyGC_Head, as large as its union with a double (3.4 and 3.5) or a long double is.
        head = 16 if sys.version_info >= (3, 8) else 24 if (3, 4) <= sys.version_info < (3, 6) else 32
        more = 16 if sys.version_info >= (3, 11) else 0
        t.enable()
        for one, before in ((Slots(), head), (Plain(), head + more), (b"x" * 500, 0)):
            self.assertEqual(id(one) - t.get_object_address(one), before)
            self.assertEqual(t.get_object_trace(one), t.get_trace(t.get_object_address(one)))

    def test_process_memory(self):
        rss, vms = t.get_process_memory()
        with open("/proc/self/statm") as statm:
            numbers = statm.read().split()
        page = os.sysconf("SC_PAGESIZE")
        self.assertEqual(vms % page, 0)
        self.assertLess(abs(vms - int(numbers[0]) * page), 50 << 20)
        self.assertLess(abs(rss - int(numbers[1]) * page), 50 << 20)

    def test_own_memory(self):
        t.enable()
        size, free = t.get_tracemalloc_memory()
        self.assertGreater(size, 0)
        self.assertLessEqual(free, size)

    def test_fork(self):
        t.enable()
        t.add_exclude_filter("nothing")
        t.set_traceback_limit(3)
        task = t.Task(list)
        task.set_delay(1000)
        task.schedule()
        pid = os.fork()
        if pid == 0:
            try:
                assert not t.is_enabled()
                assert t.get_tasks() == []
                assert t.get_traced_memory() == (0, 0)
                assert t.get_traceback_limit() == 3
                assert len(t.get_filters()) == 1
                assert t.get_traces() == {}
                t.enable()
                data, frame = allocate(5555)
                assert t.get_object_trace(data)[0] == 5555
                calls = []
                other = t.Task(calls.append, 1)
                other.set_memory_threshold(1)
                other.schedule(1)
                data = [allocate(100) for _ in range(100)]
                assert calls == [1]
                t.disable()
                os._exit(0)
            finally:
                sys.stderr.flush()
                os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.assertTrue(t.is_enabled())
        self.assertEqual(t.get_tasks(), [task])
        data, frame = allocate(5555)
        self.assertEqual(t.get_object_trace(data)[0], 5555)

    @unittest.skipIf(SEES_ALL, "this Python has a hook for arenas")
    def test_no_arena_size(self):
        self.raises(NotImplementedError, "this Python has no hook for arenas", t.get_arena_size)

    @unittest.skipUnless(SEES_ALL, "2.7 has no hook for arenas")
    def test_arena_size(self):
        t.enable()
        before = t.get_arena_size()
        keep = [[i] for i in range(100000)]
        self.assertGreater(t.get_arena_size(), before)
        t.clear_traces()
        self.assertEqual(t.get_arena_size(), 0)
        del keep

    def test_unicode_interned(self):
        def names(n):
            return [intern("interned by %s %d" % (__file__, i)) for i in range(n)]

        t.get_unicode_interned()
        size, length = t.get_unicode_interned()
        self.assertGreater(length, 500)
        self.assertGreater(size, length * 8)
        keep = names(30000)
        more, longer = t.get_unicode_interned()
        self.assertEqual(longer, length + 30000)
        self.assertGreater(more, size)
        del keep
        if sys.version_info[:2] != (3, 12):  # where interned strings stay for ever
            self.assertEqual(t.get_unicode_interned()[1], length)

    def test_reimport(self):
        t.enable()
        old = sys.modules.pop("pytracemalloc")
        core = sys.modules.pop("_pytracemalloc")
        try:
            import pytracemalloc as new
            self.assertIsNot(new, old)
            self.assertTrue(new.is_enabled())
            new.disable()
            self.assertFalse(old.is_enabled())
        finally:
            sys.modules["pytracemalloc"] = old
            sys.modules["_pytracemalloc"] = core
        gc.collect()


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
        t.add_exclude_filter(__file__, allocate.__code__.co_firstlineno + 2)
        t.enable()
        data, frame = allocate(10001)
        self.assertIsNone(t.get_object_trace(data))
        t.clear_filters()
        data, frame = allocate(10001)
        self.assertIsNotNone(t.get_object_trace(data))
        t.add_include_filter("nothing like this")
        data, frame = allocate(10001)
        self.assertIsNone(t.get_object_trace(data))
        t.add_include_filter(__file__)
        data, frame = allocate(10001)
        self.assertIsNotNone(t.get_object_trace(data))

    def test_live_traceback(self):
        def special():
            return allocate(10001)

        t.set_traceback_limit(5)
        t.add_filter(t.Filter(False, __file__, special.__code__.co_firstlineno + 1, True))
        t.enable()
        self.assertIsNone(t.get_object_trace(special()[0]))
        self.assertIsNotNone(t.get_object_trace(allocate(10001)[0]))


class Tasks(Case):
    def test_errors(self):
        self.raises(ValueError, "missing func parameter", t.Task)
        self.raises(TypeError, "func must be a callable object, not int", t.Task, 3)
        task = t.Task(len, func=3)
        self.assertEqual(task.func_kwargs, {"func": 3})
        task = t.Task(len, "abc")
        self.assertIsNone(task.func_kwargs)
        self.assertEqual(task.func_args, ("abc",))
        self.assertEqual(task.call(), 3)
        self.raises(TypeError, "func must be a callable object, not str", setattr, task, "func", "")
        self.raises(TypeError, "func_args must be a tuple, not list", setattr, task, "func_args", [])
        self.raises(TypeError, "func_kwargs must be a dict or None, not list",
                    setattr, task, "func_kwargs", [])
        task.func_kwargs = None

    def test_terms(self):
        task = t.Task(len)
        self.assertIsNone(task.get_delay())
        self.assertIsNone(task.get_memory_threshold())
        task.set_delay(9.9)
        self.assertEqual(task.get_delay(), 9)
        for wrong in (0, -1, 0.5):
            self.raises(ValueError, "delay must be positive or None", task.set_delay, wrong)
        task.set_delay(None)
        for wrong in (1.5, "1"):
            self.assertRaises(TypeError, task.set_memory_threshold, wrong)
        for wrong in (0, -1):
            self.raises(ValueError, "size must be greater than zero or None",
                        task.set_memory_threshold, wrong)

    def test_schedule_checks(self):
        task = t.Task(len)
        self.raises(ValueError, "repeat must be positive or None", task.schedule, 0)
        self.raises(RuntimeError, "the pytracemalloc module must be enabled to schedule a task",
                    task.schedule)
        t.enable()
        self.raises(ValueError, "repeat must be positive or None", task.schedule, repeat=-1)
        self.raises(ValueError, "delay and memory_threshold are None", task.schedule)
        self.assertFalse(task.is_scheduled())

    def test_three_calls(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.set_memory_threshold(1)
        task.schedule(3)
        keep = []
        for _ in range(100):
            keep.append(allocate(100))
        self.assertEqual(calls, [1, 1, 1])
        self.assertEqual(t.get_tasks(), [])
        self.assertFalse(task.is_scheduled())

    def test_growth_and_release(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.set_memory_threshold(1 << 20)
        task.schedule()
        data = allocate(3 << 20)
        self.pause()
        self.assertEqual(len(calls), 1)
        del data
        self.pause()
        self.assertEqual(len(calls), 2)

    @staticmethod
    def pause():
        for _ in range(3):
            pass

    def test_cancel(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.cancel()
        task.set_memory_threshold(1)
        task.schedule()
        self.assertTrue(task.is_scheduled())
        self.assertEqual(t.get_tasks(), [task])
        self.assertIsNot(t.get_tasks(), t.get_tasks())
        t.cancel_tasks()
        self.assertFalse(task.is_scheduled())
        self.assertEqual(t.get_tasks(), [])

    def test_disable_empties_list(self):
        t.enable()
        task = t.Task(len)
        task.set_delay(1000)
        task.schedule()
        t.disable()
        self.assertEqual(t.get_tasks(), [])
        self.assertFalse(task.is_scheduled())

    def test_disable_drops_the_calls_to_come(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.set_memory_threshold(1 << 20)
        task.schedule()
        keep = [b"x" * (3 << 20), t.disable()]
        made = len(calls)
        self.assertLessEqual(made, 1)
        del keep
        for _ in range(1000):
            keep = [1]
        self.assertEqual(len(calls), made)

    def test_terms_centre_anew(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.set_memory_threshold(1 << 20)
        task.schedule()
        keep = []
        for set_again in (lambda: task.set_memory_threshold(1 << 20),
                          lambda: task.set_delay(1000)) * 3:
            keep.append(allocate(700000))
            self.pause()
            set_again()  # without it the next one would be too much
        self.assertEqual(calls, [])
        keep.append(allocate(700000))
        keep.append(allocate(700000))
        self.pause()
        self.assertEqual(calls, [1])
        task.set_memory_threshold(None)
        task.set_delay(None)
        self.assertFalse(task.is_scheduled())

    def test_exception_cancels(self):
        seen = []
        if hasattr(sys, "unraisablehook"):
            self.addCleanup(setattr, sys, "unraisablehook", sys.unraisablehook)
            sys.unraisablehook = lambda unraisable: seen.append(unraisable.exc_type)
        else:
            self.addCleanup(setattr, sys, "stderr", sys.stderr)
            sys.stderr = open(os.devnull, "w")
        t.enable()
        for kind in (ValueError, SystemExit, KeyboardInterrupt):
            def fail():
                raise kind("wanted")
            task = t.Task(fail)
            task.set_memory_threshold(1)
            task.schedule()
            keep = allocate(1000)
            self.pause()
            self.assertFalse(task.is_scheduled())
            task.set_memory_threshold(1 << 30)
            task.schedule()
            self.assertTrue(task.is_scheduled())
            task.cancel()
        if hasattr(sys, "unraisablehook"):
            self.assertEqual(seen, [ValueError, SystemExit, KeyboardInterrupt])
        del keep

    def test_cancels_itself(self):
        calls = []

        def func():
            calls.append(1)
            task.cancel()

        t.enable()
        task = t.Task(func)
        task.set_memory_threshold(1)
        task.schedule()
        keep = [allocate(100) for _ in range(50)]
        self.assertEqual(calls, [1])
        del keep

    def test_disable_inside(self):
        calls = []

        def func():
            calls.append(1)
            t.disable()

        t.enable()
        task = t.Task(func)
        task.set_memory_threshold(1)
        task.schedule()
        keep = [allocate(100) for _ in range(50)]
        self.assertEqual(calls, [1])
        self.assertFalse(t.is_enabled())
        del keep

    def test_schedules_itself_anew(self):
        calls = []

        def func():
            calls.append(1)
            if len(calls) == 2:
                task.schedule(3)

        t.enable()
        task = t.Task(func)
        task.set_memory_threshold(1)
        task.schedule(2)
        keep = [allocate(100) for _ in range(100)]
        self.assertEqual(len(calls), 5)
        del keep

    def test_never_inside_itself(self):
        depth = []

        def func():
            depth.append(1)
            assert len(depth) == 1
            keep = [allocate(1000) for _ in range(20)]
            depth.pop()
            calls.append(len(keep))

        calls = []
        t.enable()
        tasks = [t.Task(func) for _ in range(2)]
        for task in tasks:
            task.set_memory_threshold(1)
            task.schedule(2)
        keep = [allocate(100) for _ in range(100)]
        self.assertEqual(calls, [20] * 4)
        del keep

    def test_subclass(self):
        calls = []

        class Mine(t.Task):
            def call(self):
                calls.append(self)

        t.enable()
        task = Mine(len)
        task.set_memory_threshold(1)
        task.schedule(1)
        keep = allocate(100)
        self.pause()
        self.assertEqual(calls, [task])
        del keep

    def test_delay_is_a_timer(self):
        """It needs no allocation, and no main thread that runs."""
        import time
        r, w = os.pipe()
        t.enable()
        task = t.Task(os.write, w, b"x")
        task.set_delay(1)
        start = time.time()
        task.schedule(1)
        self.assertEqual(os.read(r, 1), b"x")
        self.assertGreater(time.time() - start, 0.9)
        os.close(r)
        os.close(w)

    def test_blocked_main_thread(self):
        import threading
        import time
        where, keep = [], []
        r, w = os.pipe()

        def func():
            where.append(threading.current_thread() is main)
            os.write(w, b"x")

        def work():
            waits.wait()
            time.sleep(0.05)
            keep.append(allocate(4 << 20))

        t.enable()
        main = threading.current_thread()
        task = t.Task(func)
        task.set_memory_threshold(1 << 20)
        while False not in where:  # the main thread may do it before it waits
            del keep[:]
            waits = threading.Event()
            thread = threading.Thread(target=work)
            thread.start()
            task.schedule(1)
            waits.set()
            os.read(r, 1)
            thread.join()
        os.close(r)
        os.close(w)


if __name__ == "__main__":
    unittest.main()
