# SPDX-License-Identifier: MIT
"""Runs under every Python: what is traced, and what is told of it."""
import gc
import os
import sys
import unittest

import pytracemalloc as t
from case import Case, allocate
from old import COUNTS_ARENAS, FREE_THREADED, SEES_ALL, intern, zeros


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
        self.assertEqual(t.get_traced_memory(), (0, 0))
        t.clear_traces()
        self.assertFalse(t.is_enabled())

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

    def test_limit_says_its_own_range(self):
        with self.assertRaises(ValueError) as context:
            t.set_traceback_limit(-1)
        most = int(str(context.exception).split("; ")[1].rstrip("]"))
        self.assertGreaterEqual(most, 100)
        t.set_traceback_limit(most)
        self.assertEqual(t.get_traceback_limit(), most)
        self.assertRaises(ValueError, t.set_traceback_limit, most + 1)
        self.assertEqual(t.get_traceback_limit(), most)

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

    def test_nested_allocations_are_one(self):
        """A large object goes from one domain to the next: it is counted once."""
        t.enable()
        before = t.get_traced_memory()[0]
        data, frame = allocate(1234567)
        self.assertEqual([size for size, _ in t.get_traces().values() if size >= 1234567],
                         [1234567])
        self.assertLess(t.get_traced_memory()[0] - before, 1234567 + 5000)
        del data

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
        head = 24 if (3, 4) <= sys.version_info < (3, 6) else 32
        if sys.version_info >= (3, 8):
            head = 0 if FREE_THREADED else 16
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

    @unittest.skipIf(COUNTS_ARENAS, "this Python has a hook for arenas")
    def test_no_arena_size(self):
        self.raises(NotImplementedError, "this Python has no hook for arenas", t.get_arena_size)

    @unittest.skipUnless(COUNTS_ARENAS, "this Python has no hook for arenas")
    def test_arena_size(self):
        t.enable()
        before = t.get_arena_size()
        keep = [[i] for i in range(100000)]
        self.assertGreater(t.get_arena_size(), before)
        t.clear_traces()
        self.assertEqual(t.get_arena_size(), 0)
        del keep  # these arenas are unknown by now
        gc.collect()
        self.assertGreaterEqual(t.get_arena_size(), 0)
        keep = [[i] for i in range(300000)]
        self.assertGreater(t.get_arena_size(), 0)
        t.enable()
        self.assertGreater(t.get_arena_size(), 0)
        t.disable()
        t.enable()
        self.assertEqual(t.get_arena_size(), 0)
        del keep
        gc.collect()
        self.assertEqual(t.get_arena_size(), 0)

    def test_unicode_interned(self):
        def names(n):
            return [intern("interned by %s %d" % (__file__, i)) for i in range(n)]

        if FREE_THREADED:
            self.assertIsNone(t.get_unicode_interned())
            return
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


if __name__ == "__main__":
    unittest.main()
