# SPDX-License-Identifier: MIT
"""Which blocks are traced under filters, while they change. Argument: a path."""
import sys

import engine
import tms

PATH = sys.argv[1]
SOURCE = """
def leaf(size):
    return b'x' * size
def call(function, size):
    return function(size)
"""
modules, held, sizes = {}, [], iter(range(200000, 10 ** 9, 16))


def module(name):
    if name not in modules:
        modules[name] = {}
        exec(compile(SOURCE, name, "exec"), modules[name])
    return modules[name]


def allocate(*names):
    """A block made by the first file, called by the second and so on. Returns its size."""
    size = next(sizes)
    function = module(names[0])["leaf"]
    for name in names[1:]:
        def function(n, call=module(name)["call"], inner=function):
            return call(inner, n)
    held.append(function(size))
    return sys.getsizeof(held[-1])


def traced():
    engine.snapshot(PATH)
    snapshot = tms.File(PATH)
    snapshot.check()
    return {trace.size for trace in snapshot.traces}


def expect(filters, *cases):
    """Twice: on tracebacks that are known already, and on new ones."""
    assert engine.set_filters(*filters) == 0
    for _ in range(2):
        wanted = [(allocate(*names), keep, names) for names, keep in cases]
        found = traced()
        for size, keep, names in wanted:
            assert (size in found) == keep, (filters, names, keep)


def main():
    IN, OUT, TB = engine.INCLUDE, 0, engine.TRACEBACK
    engine.enable(10)
    allocate("a.py")
    expect([], (["a.py"], True), (["b.py"], True))
    expect([(IN, "a.py", 0)], (["a.py"], True), (["b.py"], False), (["b.py", "a.py"], False),
           (["a.pyc"], True), (["x/a.py"], False))
    expect([(IN, "*/a.py", 0)], (["x/a.pyo"], True), (["a.py"], False), (["x/y/a.py"], True))
    expect([(IN, "a.py", 3)], (["a.py"], True))
    expect([(IN, "a.py", 4)], (["a.py"], False))
    expect([(OUT, "a.py", 3)], (["a.py"], False), (["b.py"], True))
    expect([(OUT, "a.py", 4)], (["a.py"], True))
    expect([(OUT, "*", 0)], (["a.py"], False))
    expect([(IN | TB, "a.py", 0)], (["a.py"], True), (["b.py", "c.py"], False),
           (["b.py", "c.py", "a.py"], True))
    expect([(OUT | TB, "a.py", 0)], (["a.py"], False), (["b.py"], True),
           (["b.py", "c.py", "a.py"], False))
    expect([(IN, "a.py", 0), (IN, "b.py", 0), (OUT | TB, "c.py", 0), (OUT, "z*", 0)],
           (["a.py"], True), (["b.py"], True), (["d.py"], False), (["a.py", "c.py"], False))
    expect([(IN, "*" * 1000000 + "a.py", 0)], (["a.py"], True), (["b.py"], False))
    assert engine.set_filters((IN, "*a" * 101, 0)) == -22
    expect([(IN, "*a" * 99 + "*", 0)], (["a" * 98], False), (["a" * 99], True))
    engine.disable()
    engine.set_filters((OUT, "a.py", 0))
    engine.enable(10)
    size, other = allocate("a.py"), allocate("b.py")
    assert size not in traced() and other in traced(), "filters survive"
    print("filtered")


main()
