# SPDX-License-Identifier: MIT
"""Eight threads wander at random through calls, constructors, generators and coroutines that are
resumed at another depth or by another thread, exceptions, short-lived code, tracers and greenlets;
the traceback of each block in a snapshot must be what Python showed at that moment.

Arguments: a path for the snapshot, marks, seed, frames (more than one: the limit changes all the
time). Prints "stacks N"."""
import dis
import functools
import random
import sys
import threading

import engine

PATH, MARKS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LIMITS = [int(arg) for arg in sys.argv[4:]]
THREADS = 8
expected = {}  # address -> [(file, function, line)]
blocks = []
suspended = []  # generators and coroutines that any thread may resume
names = {}

try:
    import greenlet
except ImportError:
    greenlet = None


def name_of(code):
    return getattr(code, "co_qualname", code.co_name)


def line_of(frame):
    """Up to 3.9, f_lineno of a frame that has a tracer is where the tracer was told of it last, which
    it is no longer once that has been taken off (Objects/frameobject.c, PyFrame_GetLineNumber)."""
    if frame.f_trace is None or sys.version_info >= (3, 10):
        return frame.f_lineno or None  # 0: a module's first instruction is on no line (3.11 on)
    begun = [line for at, line in dis.findlinestarts(frame.f_code) if at <= frame.f_lasti]
    return begun[-1] if begun else frame.f_code.co_firstlineno  # closed before its first instruction


def mark():
    """A block whose traceback is this one."""
    frame, frames = sys._getframe(), []
    block = bytes(33); line = line_of(frame)  # noqa: E702 (the same line)
    while frame is not None and len(frames) < max(LIMITS):
        place = frame.f_code.co_filename, name_of(frame.f_code), line_of(frame)
        frames.append(names.setdefault(place, place))
        frame = frame.f_back
    frames[0] = frames[0][:2] + (line,)
    blocks.append(block)
    expected[id(block)] = frames


class Up(Exception):
    def __init__(self, walk):
        mark()
        walk.here()


class Made:
    def __init__(self, walk, depth):
        mark()
        walk.step(depth)
        mark()


class MadeBelow(Made):
    def __init__(self, walk, depth):
        super().__init__(walk, depth)
        self.list = [mark(), walk.here()]

    def __call__(self, walk, depth):
        walk.step(depth)


class Awaitable:
    def __await__(self):
        mark()
        yield 1
        mark()


class Walk:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.left = MARKS // THREADS
        self.kinds = [getattr(self, name) for name in dir(self) if name.startswith("by_")]

    def here(self):
        if self.random.random() < 0.7:
            mark(); self.left -= 1  # noqa: E702

    def step(self, depth):
        """Down, by one or more frames."""
        if depth <= 0 or self.left <= 0:
            return self.here()
        self.here()
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self.random.choice(self.kinds)(depth - 1)
            if self.random.random() < 0.5:
                self.here()
        return None

    def by_one_place(self, depth):
        self.step(depth)

    def by_either_place(self, depth):
        if self.random.random() < 0.5:
            self.step(depth)
        else:
            self.step(depth)

    def by_constructor(self, depth):
        MadeBelow(self, depth - 2)(self, depth - 1)

    def by_deep_recursion(self, depth):
        def down(n):
            if n & 3 == 0 and self.random.random() < 0.1:
                self.here()
            if n == 0:
                self.step(min(depth, 3))
            elif n & 1:
                down(n - 1)
            else:
                down(n - 1)
        down(self.random.choice([3, 15, 20, 70, 100]))

    def values(self, depth):
        mark()
        if depth > 0 and self.random.random() < 0.7:
            for value in self.values(depth - 1):
                self.here()
                yield value
        yield 1
        self.here()
        if depth > 1 and self.random.random() < 0.3:
            yield from self.values(depth - 2)
        yield self.step(min(depth, 2))

    async def later(self, depth):
        mark()
        await Awaitable()
        if depth > 0:
            await self.later(depth - 1)
        self.step(min(depth, 2))

    def by_generator(self, depth):
        for _ in self.values(depth):
            self.here()
            if self.random.random() < 0.2:
                break

    def by_suspended(self, depth):
        if self.random.random() < 0.4 or not suspended:
            make = self.values if self.random.random() < 0.6 else self.later
            suspended.append(make(self.random.randrange(6)))
        try:
            one = suspended.pop(self.random.randrange(len(suspended)))
        except (IndexError, ValueError):
            return  # another thread was there first
        try:
            if self.random.random() < 0.1:
                one.close()
            elif self.random.random() < 0.1:
                one.throw(Up(self))
            else:
                one.send(None)
                suspended.append(one)
        except (Up, StopIteration):
            self.here()
        self.step(min(depth, 1))

    def by_exception(self, depth):
        def down(n):
            try:
                if n == 0:
                    raise Up(self)
                down(n - 1)
            except Up:
                mark()
                if self.random.random() < 0.7:
                    raise
            finally:
                self.here()
        try:
            down(self.random.randrange(12))
        except Up:
            self.step(depth - 1)

    def by_callback(self, depth):
        sorted(range(2), key=lambda n: self.step(depth - 2) or n)
        functools.reduce(lambda a, b: mark(), [1, 2, 3])
        list(map(functools.partial(MadeBelow, self), [0]))

    def by_code_that_dies(self, depth):
        blank = "\n" * self.random.randrange(4)
        scope = {"walk": self, "depth": min(depth, 2), "mark": mark}
        exec(compile("import sys%s\ndef made():\n walk.step(depth)\n%s mark()\nmade()\nmark()"
                     % (blank, blank), "<made %d>" % self.random.randrange(9), "exec"), scope)

    def by_tracer(self, depth):
        before = sys.gettrace()

        def tracer(frame, event, arg):
            if self.random.random() < 0.02:
                mark()
            return tracer
        sys.settrace(None if before else tracer)
        self.step(min(depth, 2))
        sys.settrace(before)

    def by_limit(self, depth):
        if len(LIMITS) > 1 and self.random.random() < 0.1:
            engine.enable(self.random.choice(LIMITS))
        self.step(depth)

    def by_greenlets(self, depth):
        if greenlet is None:
            return self.step(depth)
        main = greenlet.getcurrent()

        def other(n):
            for _ in range(n):
                self.step(min(depth, 2))
                main.switch()
                mark()
        ones = [greenlet.greenlet(other) for _ in range(3)]
        for one in ones * 4:
            if not one.dead:
                one.switch(3)
            self.here()
        return None

    def run(self):
        try:
            while self.left > 0:
                self.step(self.random.choice([2, 5, 9, 14]))
        except BaseException as error:
            failures.append(error)
            raise


failures = []


def main():
    sys.setswitchinterval(1e-5)
    sys.setrecursionlimit(5000)
    threading.stack_size(64 << 20)
    engine.enable(LIMITS[0])
    threads = [threading.Thread(target=Walk(SEED * THREADS + i).run) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    found = engine.check_tracebacks(PATH, lambda trace: trace.address, expected, LIMITS)
    assert found == len(blocks), (found, len(blocks))
    for one in list(suspended):
        one.close()
    print("stacks", found)


main()
