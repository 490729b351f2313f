# SPDX-License-Identifier: MIT
"""A program that is attached to and has a pytracemalloc of its own; argv[1] says which. By lines."""
from __future__ import print_function

import os
import sys


def say(*words):
    print(*words)
    sys.stdout.flush()


def mapped(name):
    with open("/proc/self/maps") as maps:
        return any(name in line for line in maps)


def our_folder():
    """The library's folder is on the path: who imports from it gets the tracer that is there."""
    import pytracemalloc as t
    task = t.Task(len)
    task.set_delay(1000)
    task.schedule()
    say(t.is_enabled(), t.get_tasks() == [task], mapped("libtm-payload.so"))
    return t, task


def after_our_folder(t, task):
    """The tracer has gone: the folder's own C half takes over when it is needed."""
    say(t.is_enabled(), t.get_tasks(), task.is_scheduled(), t.get_traces())
    t.enable()
    data = b"x" * len(range(12345) if sys.version_info >= (3,) else xrange(12345))
    data = data * 2
    task.schedule()
    say(t.get_object_trace(data)[1][0][1] > 0, t.get_tasks() == [task], mapped("libtm-payload.so"),
        sum("tracemalloc" in str(finder) for finder in sys.meta_path))
    t.disable()


def unrelated():
    """A module of the same name that has nothing to do with us."""
    import pytracemalloc
    say(pytracemalloc.theirs, True, False)
    return pytracemalloc, None


def after_unrelated(module, unused):
    say(sys.modules["pytracemalloc"] is module, [], False, {})
    say(True, True, False, 0)


def as_program():
    import runpy
    try:
        runpy.run_module("pytracemalloc", run_name="__main__")
    except ImportError as error:
        say(str(error))
    return None, None


def after_as_program(*unused):
    say(False, [], False, {})
    say(True, True, False, 0)


say("ready")
sys.stdin.readline()  # attached
kept = globals()[sys.argv[1]]()
sys.stdin.readline()  # detached
globals()["after_" + sys.argv[1]](*kept)
sys.stdin.readline()
