# SPDX-License-Identifier: MIT
"""Runs under every Python: each signature and attribute of the document, the stub, and help()."""
import ast
import os
import pydoc
import sys
import unittest
from datetime import datetime

import pytracemalloc as t
from old import parameters, signature

FUNCTIONS = {
    "cancel_tasks": "()", "clear_traces": "()", "disable": "()", "enable": "()",
    "get_stats": "()", "get_tasks": "()", "is_enabled": "()",
    "get_traceback_limit": "()", "get_object_address": "(obj)", "get_object_trace": "(obj)",
    "get_trace": "(address)", "get_traces": "()", "set_traceback_limit": "(nframe)",
    "add_filter": "(filter)",
    "add_include_filter": "(filename, lineno=None, traceback=False)",
    "add_exclude_filter": "(filename, lineno=None, traceback=False)",
    "clear_filters": "()", "get_filters": "()",
    "get_arena_size": "()", "get_process_memory": "()", "get_traced_memory": "()",
    "get_tracemalloc_memory": "()", "get_unicode_interned": "()",
}
TASK = {
    "call": "()", "cancel": "()", "get_delay": "()", "get_memory_threshold": "()",
    "schedule": "(repeat=None)", "set_delay": "(seconds)", "set_memory_threshold": "(size)",
    "is_scheduled": "()",
}
SHOWN = "count=10, group_by='line', cumulative=False, file=None"
CLASSES = {
    "DisplayTop": ("()", {
        "display": "(%s, callback=None)" % SHOWN,
        "display_snapshot": "(snapshot, %s)" % SHOWN,
        "display_top_diff": "(top_diff, count=10, file=None)",
        "display_top_stats": "(top_stats, count=10, file=None)"}),
    "DisplayTopTask": ("(%s, callback=None)" % SHOWN, dict(TASK, display="()")),
    # The document's, and the other name of the pattern.
    "Filter": ("(include, pattern=None, lineno=None, traceback=False, filename=None)", {
        "match": "(filename, lineno)", "match_filename": "(filename)",
        "match_lineno": "(lineno)", "match_traceback": "(traceback)"}),
    "GroupedStats": ("(timestamp, stats, group_by, cumulative=False, metrics=None)",
                     {"compare_to": "(old_stats=None)"}),
    "Metric": ("(name, value, format)", {}),
    # The document's, and what pickles and the original have beside.
    "Snapshot": ("(timestamp, pid, traces=None, stats=None, metrics=None, traceback_limit=None)", {
        "add_gc_metrics": "()", "add_metric": "(name, value, format)",
        "add_process_memory_metrics": "()", "add_tracemalloc_metrics": "()",
        "apply_filters": "(filters)", "create": "(traces=False, metrics=True)",
        "get_metric": "(name, default=None)", "load": "(filename, traces=True)",
        "top_by": "(group_by, cumulative=False)", "write": "(filename)"}),
    "StatsDiff": ("(differences, old_stats, new_stats)", {"sort": "()"}),
    "Task": ("(func, *args, **kw)", TASK),
    "TakeSnapshotTask": ("(filename_template='tracemalloc-$counter.pickle', traces=False, "
                         "metrics=True, callback=None)", dict(TASK, take_snapshot="()")),
}
NOW = datetime(2013, 10, 3, 11, 34, 39)


def instances():
    snapshot = t.Snapshot(NOW, 5, {}, {}, {})
    grouped = snapshot.top_by("line")
    return {
        "DisplayTop": (t.DisplayTop(), {
            "average": True, "color": None, "compare_to_previous": True, "filename_parts": 3,
            "metrics": True, "previous_top_stats": None, "size": True, "count": True}),
        "DisplayTopTask": (t.DisplayTopTask(), {
            "callback": None, "count": 10, "cumulative": False, "file": None,
            "group_by": "line"}),
        "Filter": (t.Filter(True, "a"), {
            "include": True, "lineno": None, "pattern": "a", "traceback": False}),
        "GroupedStats": (grouped, {
            "cumulative": False, "metrics": {}, "group_by": "line", "stats": {},
            "timestamp": NOW}),
        "Metric": (t.Metric("a", 1, "int"), {"name": "a", "value": 1, "format": "int"}),
        "Snapshot": (snapshot, {
            "metrics": {}, "pid": 5, "stats": {}, "traceback_limit": 1, "traces": {},
            "timestamp": NOW}),
        "StatsDiff": (grouped.compare_to(), {
            "differences": [], "old_stats": None, "new_stats": grouped}),
        "Task": (t.Task(len, 1, a=2), {
            "func": len, "func_args": (1,), "func_kwargs": {"a": 2}}),
        "TakeSnapshotTask": (t.TakeSnapshotTask(), {
            "callback": None, "filename_template": "tracemalloc-$counter.pickle",
            "metrics": True, "traces": False, "counter": 1}),
    }


class Signatures(unittest.TestCase):
    def test_functions(self):
        for name, expected in FUNCTIONS.items():
            self.assertEqual(signature(getattr(t, name)), expected, name)

    def test_classes(self):
        for name, (expected, methods) in CLASSES.items():
            cls = getattr(t, name)
            self.assertEqual(signature(cls), expected, name)
            for method, expected in methods.items():
                self.assertEqual(signature(getattr(cls, method)), expected, name + "." + method)

    def test_attributes(self):
        for name, (instance, attributes) in instances().items():
            self.assertIs(type(instance), getattr(t, name))
            for attribute, expected in attributes.items():
                self.assertEqual(getattr(instance, attribute), expected, name + "." + attribute)
        self.assertIsInstance(t.DisplayTopTask().display_top, t.DisplayTop)
        self.assertTrue(issubclass(t.DisplayTopTask, t.Task))
        self.assertTrue(issubclass(t.TakeSnapshotTask, t.Task))

    def test_names(self):
        self.assertEqual(sorted(t.__all__), sorted(list(FUNCTIONS) + list(CLASSES)))
        self.assertRegex(t.__version__, r"^\d+\.\d+")
        for name in t.__all__:
            self.assertEqual(getattr(t, name).__module__, "pytracemalloc")
        self.assertEqual(os.path.basename(t.__file__), "pytracemalloc.py")


def stub_parameters(function):
    arguments = function.args
    names = [a.arg for a in arguments.args + arguments.kwonlyargs]
    names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return sorted(name for name in names if name not in ("self", "cls"))


@unittest.skipIf(sys.version_info < (3, 6), "annotations of variables came with 3.6")
class Stub(unittest.TestCase):
    """pytracemalloc.pyi says the same."""

    def setUp(self):
        with open(t.__file__ + "i") as stub:
            self.tree = ast.parse(stub.read())

    def agree(self, function, func, where):
        found = [name for name in parameters(func) if name not in ("self", "cls")]
        self.assertEqual(stub_parameters(function), sorted(found), where)

    def test_functions(self):
        stubs = {f.name: f for f in self.tree.body if isinstance(f, ast.FunctionDef)}
        self.assertEqual(sorted(stubs), sorted(FUNCTIONS))
        for name, function in stubs.items():
            self.agree(function, getattr(t, name), name)

    def test_classes(self):
        stubs = {c.name: c for c in self.tree.body if isinstance(c, ast.ClassDef)}
        self.assertEqual(sorted(stubs), sorted(CLASSES))
        for name, stub in stubs.items():
            said = set()
            for function in stub.body:
                if isinstance(function, ast.FunctionDef):
                    said.add(function.name)
                    is_method = not function.decorator_list or (
                        getattr(function.decorator_list[0], "id", "") == "classmethod")
                    if is_method and function.name != "__init__":
                        self.agree(function, getattr(getattr(t, name), function.name),
                                   name + "." + function.name)
                elif isinstance(function, ast.AnnAssign):
                    said.add(function.target.id)
            inherited = set(TASK) | {"func", "func_args", "func_kwargs"} if name != "Task" else set()
            for member in list(CLASSES[name][1]) + list(instances()[name][1]):
                self.assertIn(member, said | inherited, name)


class Help(unittest.TestCase):
    def test_all_have_one(self):
        for name in FUNCTIONS:
            self.assertTrue(getattr(t, name).__doc__, name)
        for name, (_, methods) in CLASSES.items():
            self.assertTrue(getattr(t, name).__doc__, name)
            for method in methods:
                self.assertTrue(getattr(getattr(t, name), method).__doc__, name + "." + method)
        self.assertIn("get_traced_memory", pydoc.render_doc(t))

    def test_units_and_errors(self):
        for words, told in {
            "bytes": (t, t.get_stats, t.get_object_trace, t.get_arena_size, t.get_process_memory,
                      t.get_traced_memory, t.get_tracemalloc_memory, t.get_unicode_interned,
                      t.Task, t.Task.set_memory_threshold, t.Task.get_memory_threshold, t.Metric,
                      t.Snapshot.add_process_memory_metrics),
            "seconds": (t, t.Task, t.Task.set_delay, t.Task.get_delay),
            "ValueError": (t.set_traceback_limit, t.Filter, t.Task.set_delay,
                           t.Task.set_memory_threshold, t.Task.schedule, t.Snapshot.top_by,
                           t.Snapshot.add_metric),
            "TypeError": (t.Filter, t.Snapshot.load, t.Filter.match_traceback),
            "RuntimeError": (t.enable, t.Task.schedule, t.Snapshot.create),
            "OSError": (t.Snapshot.write, t.Snapshot.load),
            "NotImplementedError": (t.get_arena_size,),
            "None": (t.get_trace, t.get_object_trace, t.get_process_memory,
                     t.get_unicode_interned),
        }.items():
            for one in told:
                self.assertIn(words, one.__doc__, one)


if __name__ == "__main__":
    unittest.main()
