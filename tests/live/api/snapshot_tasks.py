# SPDX-License-Identifier: MIT
"""Runs under every Python: the tasks that take or display snapshots."""
import os
import sys
import unittest
from datetime import datetime

import pytracemalloc as t
from case import Case, allocate
from old import FREE_THREADED, FileError, TextOut


class SnapshotTasks(Case):
    def test_take_snapshot(self):
        t.enable()
        seen = []
        task = t.TakeSnapshotTask(self.path("x-$pid-$timestamp-$counter.pickle"), traces=True,
                                  callback=seen.append)
        snapshot, filename = task.take_snapshot()
        self.assertEqual(seen, [snapshot])
        stamp = str(snapshot.timestamp).split(".")[0].replace(" ", "-")
        self.assertEqual(filename, self.path("x-%d-%s-0001.pickle" % (os.getpid(), stamp)))
        self.assertEqual(t.Snapshot.load(filename).traces, snapshot.traces)
        self.assertTrue(task.take_snapshot()[1].endswith("0002.pickle"))
        self.assertEqual(t.TakeSnapshotTask().filename_template, "tracemalloc-$counter.pickle")

    def test_counter_advances_before_the_write(self):
        t.enable()
        task = t.TakeSnapshotTask(self.path("none/$counter"))
        self.assertRaises(FileError, task.take_snapshot)
        task.filename_template = self.path("$counter")
        self.assertEqual(task.take_snapshot()[1], self.path("0002"))

    def test_callback_before_naming_and_writing(self):
        t.enable()

        def callback(snapshot):
            self.assertEqual(os.listdir(self.folder), [])
            snapshot.timestamp = datetime(2013, 10, 3, 11, 34, 39, 5)
            snapshot.add_metric("mine", 3, "int")
            task.filename_template = self.path("$timestamp")

        task = t.TakeSnapshotTask("nowhere/$counter", callback=callback)
        self.assertEqual(task.take_snapshot()[1], self.path("2013-10-03-11:34:39"))
        written = t.Snapshot.load(self.path("2013-10-03-11:34:39"))
        self.assertEqual(written.get_metric("mine"), 3)
        self.assertEqual(written.timestamp, datetime(2013, 10, 3, 11, 34, 39, 5))

    def test_scheduled(self):
        t.enable()
        task = t.TakeSnapshotTask(self.path("$counter.tms"))
        task.set_memory_threshold(1 << 20)
        task.schedule(1)
        keep = allocate(2 << 20)
        for _ in range(3):
            pass
        self.assertEqual(os.listdir(self.folder), ["0001.tms"])
        del keep

    def run_once(self, task):
        """Lets a task be called once; the names of the module's functions that ran for it."""
        ran = []

        def profile(frame, event, arg):
            if event == "call" and frame.f_code.co_filename == t.__file__:
                ran.append(frame.f_code.co_name)

        task.set_memory_threshold(1 << 20)
        task.schedule(1)
        letter, times = b"x", 2 << 20
        sys.setprofile(profile)
        keep = letter * times  # no call, in whose profiling the task could run unseen
        for _ in range(3):
            pass
        sys.setprofile(None)
        del keep
        return ran

    def run_once_in_c(self, task):
        ran = self.run_once(task)
        if not FREE_THREADED:  # where Python makes the call
            self.assertEqual(ran, [])

    def test_without_callback_no_python_runs(self):
        t.set_traceback_limit(3)
        t.enable()
        for end in ("pickle", "tms"):
            keep, frame = allocate(12345)
            task = t.TakeSnapshotTask(self.path("$pid-$counter." + end), traces=True)
            self.run_once_in_c(task)
            self.assertEqual(task.counter, 2)
            written = t.Snapshot.load(self.path("%d-0001.%s" % (os.getpid(), end)))
            self.assertEqual(written.pid, os.getpid())
            self.assertEqual(written.traceback_limit, 3)
            address = t.get_object_address(keep)
            self.assertEqual(written.traces[address], t.get_trace(address))
            by_hand, filename = task.take_snapshot()
            self.assertTrue(filename.endswith("0002." + end))
            self.assertEqual(
                sorted((m.name, m.format) for m in written.metrics.values()),
                sorted((m.name, m.format) for m in by_hand.metrics.values()))
            self.assertEqual(written.get_metric("tracemalloc.traces"), len(written.traces))
            self.assertLess(written.get_metric("tracemalloc.traced.max_size")
                            - written.get_metric("tracemalloc.traced.size"), 2000)  # not our work
            own = [trace for trace in written.traces.values() if trace[1][:1]
                   and trace[1][0][0] == t.__file__]
            self.assertEqual(own, [])
            bare = t.TakeSnapshotTask(self.path("bare." + end), metrics=False)
            self.run_once_in_c(bare)
            written = t.Snapshot.load(self.path("bare." + end))
            self.assertIsNone(written.traces)
            self.assertEqual(written.metrics, {})
            self.assertIn(frame[1], written.stats[frame[0]])
            t.clear_traces()

    def test_what_a_program_replaced_is_called(self):
        t.enable()
        task = t.TakeSnapshotTask(self.path("$counter"), callback=lambda snapshot: None)
        self.assertIn("take_snapshot", self.run_once(task))
        task.callback = None
        self.run_once_in_c(task)
        for space, name in ((t, "get_process_memory"), (t.Snapshot, "add_gc_metrics"),
                            (t.TakeSnapshotTask, "call"), (task, "call")):
            seen = []
            had = name in vars(space)
            old = vars(space).get(name)
            setattr(space, name, lambda *args: seen.append(name) or (1, 2))
            try:
                self.run_once(task)
            finally:
                setattr(space, name, old) if had else delattr(space, name)
            self.assertEqual(seen, [name])
        self.run_once_in_c(task)

        class Mine(t.TakeSnapshotTask):
            def take_snapshot(self):
                seen.append(self)

        mine = Mine(self.path("mine"))
        self.run_once(mine)
        self.assertEqual(seen[1:], [mine])

    def test_a_write_that_fails_cancels(self):
        seen = self.unraisable("exc_value")
        t.enable()
        task = t.TakeSnapshotTask(self.path("none/$counter.pickle"))
        self.run_once_in_c(task)
        self.assertFalse(task.is_scheduled())
        self.assertEqual(task.counter, 2)
        if seen:
            self.assertIsInstance(seen[0], FileError)
            self.assertEqual(seen[0].filename, self.path("none/0001.pickle"))
            del seen[:]
        elif sys.version_info[:2] == (3, 3):
            self.assertIn("FileNotFoundError", sys.stderr.getvalue())  # its repr(), without a path
        else:
            self.assertIn(self.path("none/0001.pickle"), sys.stderr.getvalue())

    def test_blocked_main_thread(self):
        """The file is there although the main thread runs nothing."""
        import threading
        import time
        t.enable()
        task = t.TakeSnapshotTask(self.path("$counter.pickle"))
        task.set_memory_threshold(1 << 20)
        task.schedule(1)
        r, w = os.pipe()

        def work():
            keep.append(allocate(4 << 20))
            end = time.time() + 60
            while not os.path.exists(self.path("0001.pickle")) and time.time() < end:
                time.sleep(0.01)
            os.write(w, b"x")

        keep = []
        thread = threading.Thread(target=work)
        thread.start()
        os.read(r, 1)
        self.assertEqual(os.listdir(self.folder), ["0001.pickle"])
        thread.join()
        os.close(r)
        os.close(w)

    def test_display_task(self):
        t.enable()
        out = TextOut()
        task = t.DisplayTopTask(3, "filename", file=out)
        task.display_top.color = False
        task.set_memory_threshold(1 << 20)
        task.schedule()
        keep = allocate(2 << 20)
        for _ in range(3):
            pass
        self.assertIn("Top ", out.getvalue())
        self.assertEqual(t.DisplayTopTask().count, 10)
        self.assertIs(type(task.display()), t.Snapshot)
        task = t.DisplayTopTask(3)
        saved, sys.stdout = sys.stdout, TextOut()  # after the task was made
        try:
            task.display()
            self.assertIn("Top 3 ", sys.stdout.getvalue())
        finally:
            sys.stdout = saved
        del keep


if __name__ == "__main__":
    unittest.main()
