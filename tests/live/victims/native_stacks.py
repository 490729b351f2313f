# SPDX-License-Identifier: MIT
"""Keeps blocks on stacks of all kinds (tests/live/stacks_extension.c).

Arguments: the file of the extension library, and how many rounds. Each command names what to do;
blocks.json is then a list of all blocks so far: address, size, what the stack is, and the names of
the Python functions, most recent first. A stack is "own", "other", or "any" where nothing is said
of its native frames."""
import ctypes
import json
import os
import random
import sys
import traceback

from _victim import say

STACK = 1 << 20
PAGE = 4096
SIZE = 7000
rounds = int(sys.argv[2])
kept, blocks = [], []
library = ctypes.CDLL(sys.argv[1])
holding = ctypes.PyDLL(sys.argv[1])  # the GIL
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
this = ctypes.CDLL(None).pthread_self
this.restype = ctypes.c_void_p
malloc = ctypes.cast(ctypes.pythonapi.PyObject_Malloc, ctypes.c_void_p)
pointer, size_t, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
for handle, name, result, arguments in (
        (library, "map", pointer, (pointer, size_t)),
        (library, "guard", number, (pointer, size_t)),
        (library, "unmap", number, (pointer, size_t)),
        (library, "run", None, (CALLBACK, pointer, size_t, number)),
        (library, "alternate", None, (CALLBACK, pointer, pointer, size_t, number, number)),
        (library, "thread", number, (CALLBACK, pointer, size_t, size_t, number)),
        (library, "deep", number, (CALLBACK, size_t, number)),
        (library, "here", pointer, ()),
        (library, "timer", ctypes.c_long, (pointer, size_t, number)),
        (holding, "signal", pointer, (pointer, size_t, pointer, size_t)),
        (holding, "signal_inside", pointer, (pointer, size_t)),
        (holding, "by_pointer", pointer, (pointer, size_t, ctypes.c_uint64)),
        (holding, "pointed", pointer, (pointer, size_t, ctypes.c_uint64)),
        (holding, "downwards", pointer, (pointer, size_t)),
        (holding, "hostile", pointer, (pointer, size_t, ctypes.c_uint64, pointer, size_t))):
    function = getattr(handle, "tm_stacks_" + name)
    function.restype, function.argtypes = result, arguments
    globals()[name] = function


def note(stack, size, address):
    """A block that the caller has taken."""
    names, frame = [], sys._getframe(1)
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    blocks.append((address, size, stack, names))


def keep(stack):
    block = bytearray(SIZE)
    kept.append(block)
    note(stack, SIZE + 1, ctypes.addressof(ctypes.c_char.from_buffer(block)))


def callback(function):
    """Nothing goes wrong in silence."""
    def call(value):
        try:
            function(value)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        return 0
    return CALLBACK(call)


def new_stack(guarded=True, size=STACK):
    """A coroutine's, with guard pages where it is guarded."""
    low = map(None, size + 2 * PAGE)
    if guarded:
        guard(low, PAGE)
        guard(low + PAGE + size, PAGE)
    return low + PAGE


def drop_stack(low, size=STACK):
    unmap(low - PAGE, size + 2 * PAGE)


def on_other(value):
    keep("other")


def on_own(value):
    keep("own")


def descend(depth, function):
    if depth:
        return descend(depth - 1, function)
    return function(0)


# ---- coroutines ----

def do_guarded():
    first, second = new_stack(), new_stack()
    inner = callback(on_other)
    back = callback(lambda value: (run(inner, second, STACK, 0), keep("other")))

    def everything(value):
        run(inner, first, STACK, 0)
        alternate(inner, first, second, STACK, 0, 5)
        run(back, first, STACK, 0)  # one from the other
        run(callback(lambda value: descend(40, on_other)), first, STACK, 0)
        keep("own")
        descend(40, on_own)
    for _ in range(rounds):
        everything(0)
        thread(callback(everything), None, STACK, PAGE, 0)
        thread(callback(everything), None, 2 * STACK, 0, 0)  # without a guard page
    drop_stack(first)
    drop_stack(second)


def do_reused():
    """Stacks that go and come to the same place, some of them smaller and with a hole above."""
    low, size = new_stack(), STACK
    drop_stack(low)

    def everything(value):
        for size in (STACK, STACK // 2, STACK // 4 * 3):
            for guarded in (True, False):
                place = map(low, size)
                if place is None:  # the library's allocator or a thread was faster
                    continue
                if guarded:
                    guard(place, PAGE)
                run(callback(on_other), place + PAGE, size - PAGE, 0)
                unmap(place, size)
        keep("own")
    for _ in range(rounds):
        everything(0)
        thread(callback(everything), None, STACK, PAGE, 0)


# ---- nothing between another stack and the end of the thread's own ----

def use_gapless(first, second):
    """Two coroutines; where the second's stack was is a hole, into which the first's rbp leads."""
    def wrong(value):
        for place in (second + STACK // 2, second, second + STACK - 16):
            note("other", SIZE, hostile(malloc, SIZE, place, second, STACK))
    for _ in range(2):
        run(callback(on_other), first, STACK, 0)
        run(callback(on_other), second, STACK, 0)
        run(callback(wrong), first, STACK, 0)
    keep("own")


def do_gapless_thread():
    """On a stack that the program gave, without a guard page."""
    for _ in range(rounds):
        low = map(None, 3 * STACK)
        thread(callback(lambda value: use_gapless(low, low + STACK)), low + 2 * STACK, STACK, 0, 0)
        unmap(low, 3 * STACK)


def do_same_place():
    """The same control block twice, with a large and with a small stack."""
    for _ in range(rounds):
        low = map(None, 3 * STACK)
        thread(callback(lambda value: deep(callback(on_own), 2 * STACK + STACK // 2, 0)), low,
               3 * STACK, 0, 0)
        thread(callback(lambda value: use_gapless(low, low + STACK)), low + 2 * STACK, STACK, 0, 0)
        unmap(low, 3 * STACK)


def find_run(address):
    """The lowest address from which all can be read up to this one, and the end of what is below."""
    low = end = below = 0
    with open("/proc/self/maps") as file:
        for line in file:
            start, stop = [int(word, 16) for word in line.split()[0].split("-")]
            if start != end or line.split()[1][0] != "r":
                low, below = start, end
            end = stop
            if address < end:
                return low, below


def find_place(n_bytes):
    """Right below all that can be read up to the main thread's control block; gaps that are too
    small are filled. None: something there cannot be read."""
    while True:
        low, below = find_run(this())
        if low - below >= n_bytes + STACK:
            return low - n_bytes
        if low == below or map(below, low - below) is None:
            return None


def do_gapless_main():
    if main_place is None:
        say("no place")
        return
    for _ in range(rounds):
        use_gapless(main_place, main_place + STACK)


def do_wrong():
    """On the thread's own stack rbp leads to all kinds of places."""
    random.seed(7)

    def wrong(value):
        hole = new_stack()
        places = [0, 8, 1, hole, hole - PAGE, (1 << 47) - 16, 1 << 47, (1 << 64) - 16, 1 << 63,
                  this(), this() - 8, this() - 16, this() - 24, this() + 2304]
        for _ in range(60):
            places.append(here() + 8 * random.randrange(-64, 2000))
        places.append(here() + 100)
        for place in places:
            note("any", SIZE, hostile(malloc, SIZE, place, None, 0))
            note("any", SIZE, by_pointer(malloc, SIZE, place))
            note("any", SIZE, pointed(malloc, SIZE, place))
        for _ in range(4):
            note("any", SIZE, downwards(malloc, SIZE))
        drop_stack(hole)
    for _ in range(rounds):
        wrong(0)
        thread(callback(wrong), None, STACK, PAGE, 0)
        low = map(None, 2 * STACK)
        guard(low, STACK + STACK // 2)
        thread(callback(wrong), low + STACK + STACK // 2, STACK // 2, 0, 0)
        unmap(low, 2 * STACK)


# ---- signal handlers ----

def do_signals():
    buffer = ctypes.create_string_buffer(1 << 16)
    low = map(None, 2 * STACK)

    def handle(stack, *where):
        note(stack, SIZE, signal(malloc, SIZE, *where))

    def handle_inside():
        note("any", SIZE, signal_inside(malloc, SIZE))

    def everything(value):
        stack = new_stack()
        handle("other", ctypes.addressof(buffer), len(buffer))
        handle("other", stack, STACK)
        handle_inside()
        run(callback(lambda value: handle_inside()), stack, STACK, 0)
        keep("own")
        drop_stack(stack)

    def gapless(value):
        handle("other", low, STACK)
        keep("own")
    for _ in range(rounds):
        everything(0)
        thread(callback(everything), None, STACK, PAGE, 0)
        thread(callback(gapless), low + STACK, STACK, 0, 0)
    unmap(low, 2 * STACK)


def do_timer():
    """Handlers merely run, whatever goes on."""
    stack = new_stack()
    timer(stack, STACK, 700)
    before = timer(stack, STACK, 700)
    while timer(stack, STACK, 700) == before:
        do_guarded()
    timer(None, 0, 0)
    drop_stack(stack)


# ---- greenlets: slices of the thread's own stack ----

def do_greenlets():
    from greenlet import getcurrent, greenlet
    random.seed(7)
    main, alive = getcurrent(), []

    def wander(depth):
        if depth:
            keep("any")
            main.switch()
            wander(depth - 1)
            keep("any")
        main.switch()

    def begin(depth):
        if depth:
            return begin(depth - 1)
        green = greenlet(wander)
        alive.append(green)
        green.switch(random.randrange(30))

    def everything():
        for _ in range(20 * rounds):
            begin(random.randrange(30))
            for _ in range(10):
                green = random.choice(alive)
                green.switch()
                if green.dead:
                    alive.remove(green)
                if not alive:
                    break
            keep("own")
    everything()


# Before the trace begins, whose own memory would come there.
main_place = find_place(2 * STACK)
if main_place is not None:
    main_place = map(main_place, 2 * STACK)
say("ready", 1)
while True:
    line = sys.stdin.readline()
    if not line:
        break
    globals()["do_" + line.strip()]()
    with open("blocks.json", "w") as file:
        json.dump(blocks, file)
    say("kept")
