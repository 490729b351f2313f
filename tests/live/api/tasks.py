# SPDX-License-Identifier: MIT
"""Runs under every Python: when tasks are called."""
import os
import sys
import threading
import unittest

import pytracemalloc as t
from case import Case, allocate


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

    def test_huge_terms(self):
        t.enable()
        task = t.Task(len)
        for set_one, get_one in ((task.set_delay, task.get_delay),
                                 (task.set_memory_threshold, task.get_memory_threshold)):
            set_one(10 ** 30)
            self.assertEqual(get_one(), 10 ** 30)
            task.schedule(10 ** 30)
            self.assertTrue(task.is_scheduled())
            set_one(10 ** 31)
            task.cancel()

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

    def test_repeat_by_both_names(self):
        t.enable()
        for args, kwargs in (((2,), {}), ((), {"repeat": 2})):
            calls = []
            task = t.Task(calls.append, 1)
            task.set_memory_threshold(1)
            task.schedule(*args, **kwargs)
            keep = [allocate(100) for _ in range(100)]
            self.assertEqual(calls, [1, 1])
        del keep

    def test_scheduled_anew_it_repeats_anew(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.set_memory_threshold(1 << 20)
        task.schedule(7)
        task.schedule(2)
        self.assertEqual(t.get_tasks(), [task])
        keep = []
        for _ in range(5):
            keep.append(allocate(3 << 20))
            self.pause()
        self.assertEqual(calls, [1, 1])
        self.assertEqual(t.get_tasks(), [])
        task.schedule(1)
        keep.append(allocate(3 << 20))
        self.pause()
        self.assertEqual(calls, [1, 1, 1])

    def test_the_edges(self):
        for size, expected in (((1 << 20) - 20000, 0), ((1 << 20) + 20000, 1)):
            for grows in (True, False):
                calls = []
                t.enable()
                base, data = allocate(4 << 20), None if grows else allocate(size)
                task = t.Task(calls.append, 1)
                task.set_memory_threshold(1 << 20)
                task.schedule()
                data = allocate(size) if grows else None
                self.pause()
                self.assertEqual(len(calls), expected, (size, grows))
                t.disable()
                del base, data

    def test_the_lower_edge_is_not_below_zero(self):
        calls = []
        t.enable()
        task = t.Task(calls.append, 1)
        task.set_memory_threshold(1 << 20)
        task.schedule(1)
        t.clear_traces()  # nothing is traced now, and again when the next one is gone
        for _ in range(20):
            allocate(1000)
            self.pause()
        self.assertLessEqual(len(calls), 1)
        if sys.version_info >= (3, 11):  # before, frames are traced
            self.assertEqual(len(calls), 1)

    def test_centred_after_the_call(self):
        keep = []

        def func():
            keep.append(allocate(3 << 20))

        t.enable()
        task = t.Task(func)
        task.set_memory_threshold(1 << 20)
        task.schedule()
        data = allocate(3 << 20)
        for _ in range(10):
            self.pause()
        self.assertEqual(len(keep), 1)
        del data
        self.pause()
        self.assertEqual(len(keep), 2)

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

    @staticmethod
    def in_thread(func):
        thread = threading.Thread(target=func)
        thread.start()
        thread.join()

    def test_new_terms_do_not_lose_a_call(self):
        """The growth came first, and the main thread has not come by."""
        for change in (lambda: task.set_memory_threshold(1 << 20), lambda: task.set_delay(1000)):
            calls, keep = [], []
            t.enable()
            task = t.Task(calls.append, 1)
            task.set_memory_threshold(1 << 20)
            task.schedule()

            def work():
                keep.append(allocate(3 << 20))
                change()

            self.in_thread(work)
            self.pause()
            self.assertEqual(calls, [1])
            t.disable()

    def test_scheduled_anew_it_forgets(self):
        """A growth that has gone again is not one of the new schedule."""
        t.enable()
        for _ in range(20):  # on a busy machine the call may come before
            calls = []
            task = t.Task(calls.append, 1)
            task.set_memory_threshold(1 << 20)
            task.schedule()

            def work():
                allocate(3 << 20)
                task.schedule(1)

            self.in_thread(work)
            self.pause()
            task.cancel()
            if calls == []:
                return
        self.fail("it was always called")

    def test_exception_cancels(self):
        seen = self.unraisable("exc_type")
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

    def called_once(self, act):
        """A task that does `act` when it is called is not called again."""
        calls = []

        def func():
            calls.append(1)
            act(task)

        t.enable()
        task = t.Task(func)
        task.set_memory_threshold(1)
        task.schedule()
        keep = [allocate(100) for _ in range(50)]
        self.assertEqual(calls, [1])
        del keep

    def test_cancels_itself(self):
        self.called_once(lambda task: task.cancel())

    def test_disable_inside(self):
        self.called_once(lambda task: t.disable())
        self.assertFalse(t.is_enabled())

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
