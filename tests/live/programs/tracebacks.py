# SPDX-License-Identifier: MIT
"""Allocates blocks of unmistakable sizes in many kinds of code and compares the traceback of each
in a snapshot with the frames that Python itself showed at that moment.

Arguments: a path for the snapshot, frames. Prints "tracebacks N"."""
import asyncio
import functools
import gc
import sys
import threading

import engine

PATH, LIMIT = sys.argv[1], int(sys.argv[2])
expected = {}  # size -> [(file, function, line)]
blocks = []


def name_of(code):
    return getattr(code, "co_qualname", code.co_name)


def mark(*ignored):
    """A block whose traceback is this one."""
    number = 300000 + 16 * len(blocks)
    frame, frames = sys._getframe(), []
    block = bytes(number); line = frame.f_lineno  # noqa: E702 (the same line)
    while frame is not None:
        frames.append((frame.f_code.co_filename, name_of(frame.f_code), frame.f_lineno))
        frame = frame.f_back
    frames[0] = frames[0][:2] + (line,)
    blocks.append(block)
    expected[sys.getsizeof(block)] = frames
    return 0


def generator(n):
    mark()
    if n:
        for value in generator(n - 1):
            mark()
            yield value
    yield mark()


def delegating():
    yield from generator(3)
    mark()


async def coroutine(n):
    mark()
    if n:
        await coroutine(n - 1)
    await asyncio.sleep(0)
    mark()


async def asynchronous():
    async def agen():
        for i in range(2):
            mark()
            yield i
    async for _ in agen():
        mark()
    await asyncio.gather(coroutine(3), coroutine(1))
    [mark() async for _ in agen()]


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        mark()
        return function(*args)
    return wrapper


@decorate
@decorate
def decorated():
    mark()


class Body:
    attribute = mark()

    def __del__(self):
        mark()

    def __lt__(self, other):
        return mark() == 1

    def __hash__(self):
        return mark()

    @property
    def prop(self):
        return mark()


def recurse(n):
    return mark() if n == 0 else recurse(n - 1)


def callbacks():
    sorted([3, 1, 2], key=mark)
    list(map(mark, range(2)))
    [mark() for _ in range(2)]
    {mark(): mark() for _ in range(2)}
    set(mark() for _ in range(2))
    functools.reduce(lambda a, b: mark(), [1, 2, 3])
    min([Body(), Body()])
    {Body(): 1}
    Body().prop
    (lambda: mark())()
    gc.collect()


def executed():
    for i in range(50):
        source = "\n" * (i % 7) + "def f%d():\n    return [mark(),\n        mark()]\nf%d()\nmark()" % (i, i)
        scope = {"mark": mark}
        exec(compile(source, "<made %d>" % i, "exec"), scope)
        eval("mark()", {"mark": mark})
        del scope
        gc.collect()


def multi_line():
    return (mark(),
            mark(
            ),
            [mark()
             for _ in range(1)])


def everything():
    list(delegating())
    half = generator(3)
    next(half)
    blocks.append(half)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asynchronous())
    loop.close()
    decorated()
    callbacks()
    executed()
    multi_line()
    try:
        raise ValueError
    except ValueError:
        mark()
    with_greenlets()


def with_greenlets():
    try:
        import greenlet
    except ImportError:
        return

    def other():
        mark()
        main.switch()
        recurse(5)

    main = greenlet.getcurrent()
    child = greenlet.greenlet(other)
    child.switch()
    mark()
    recurse(3)
    child.switch()


def instrumented():
    seen = []

    def tracer(frame, event, arg):
        seen.append(event)
        return tracer
    sys.settrace(tracer)
    multi_line()
    list(delegating())
    assert sys.gettrace() is tracer
    sys.settrace(None)

    def profiler(frame, event, arg):
        seen.append(event)
    sys.setprofile(profiler)
    multi_line()
    callbacks()
    assert sys.getprofile() is profiler
    sys.setprofile(None)
    assert len(seen) > 20
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is not None:
        lines = []
        monitoring.use_tool_id(3, "test")
        monitoring.register_callback(3, monitoring.events.LINE, lambda code, n: lines.append(n))
        monitoring.register_callback(3, monitoring.events.INSTRUCTION, lambda code, n: None)
        monitoring.set_events(3, monitoring.events.LINE | monitoring.events.INSTRUCTION)
        multi_line()
        callbacks()
        list(delegating())
        assert monitoring.get_tool(3) == "test"
        monitoring.set_events(3, 0)
        monitoring.free_tool_id(3)
        assert len(lines) > 20


def covered():
    """Under coverage, whose own tracer must go on as the program set it."""
    try:
        import coverage
    except ImportError:
        return
    measure = coverage.Coverage(data_file=None, include=[__file__])
    measure.start()
    tracer = sys.gettrace()
    multi_line()
    list(delegating())
    callbacks()
    assert sys.gettrace() is tracer
    measure.stop()
    lines = measure.get_data().lines(__file__)
    first = multi_line.__code__.co_firstlineno
    assert first + 1 in lines and callbacks.__code__.co_firstlineno + 1 in lines, lines


def main():
    expected.clear()  # the class body ran untraced
    engine.enable(LIMIT)
    for _ in range(3):
        everything()
    instrumented()
    covered()
    thread = threading.Thread(target=everything)
    thread.start()
    thread.join()
    sys.setrecursionlimit(5000)
    recurse(1500)
    recurse(1500)
    found = engine.check_tracebacks(PATH, lambda trace: trace.size, expected, [LIMIT])
    print("tracebacks", found)


main()
