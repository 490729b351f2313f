# SPDX-License-Identifier: MIT
"""Sub-interpreters, with the shared GIL and (from 3.12 on) with one of their own, allocating at the
same time as the main one while snapshots are taken; the tracebacks of what they keep are theirs.
Argument: a path."""
import sys
import threading

import engine
import tms

PATH = sys.argv[1]
CODE = """
def work():
    kept = []
    for i in range(20000):
        kept.append([str(i)] * 5)
        if i % 3:
            kept.pop()
    return kept
def held(size):
    return bytes(size)
def deeper(size):
    made = (held(size + i) for i in range(2))
    return list(made)
for i in range(5):
    kept = work()
    exec(compile("def f():\\n  return [1] * 100\\nf()", "<sub>", "exec"), {})
"""


HELD = "mine = deeper(%d)"  # lines of CODE: held's 10, the generator's 12, deeper's 13


def check_held(size):
    """What an interpreter holds by HELD has its own frames, whatever frames others had there."""
    engine.snapshot(PATH)
    snapshot = tms.File(PATH)
    snapshot.check()
    found = 0
    for trace in snapshot.traces:
        if trace.size - sys.getsizeof(b"") in (size, size + 1) and trace.domain == 2:
            frames = [(f.function.rpartition(".")[2], f.line) for f in snapshot.frames(trace.node)]
            assert frames == [("held", 10), ("<genexpr>", 12), ("deeper", 13), ("<module>", 1)], \
                frames
            found += 1
    assert found == 2, found


def make_interpreters():
    """(create, run, destroy) of whichever private module this version has."""
    try:
        import _interpreters as module  # 3.13
        kinds = ["legacy", "isolated"]
        return module, [lambda k=k: module.create(k) for k in kinds], module.exec
    except ImportError:
        import _xxsubinterpreters as module  # 3.8 to 3.12
    if sys.version_info >= (3, 12):
        creates = [lambda: module.create(isolated=False), lambda: module.create(isolated=True)]
    else:
        creates = [module.create]
    return module, creates, module.run_string


def main():
    module, creates, run = make_interpreters()
    engine.enable(5)
    for create in creates * 2:
        interpreters = [create() for _ in range(2)]
        threads = [threading.Thread(target=run, args=(i, CODE)) for i in interpreters]
        for thread in threads:
            thread.start()
        exec(CODE, {})
        while any(thread.is_alive() for thread in threads):
            engine.snapshot(PATH)
            tms.File(PATH).check()
        for thread in threads:
            thread.join()
        for number, interpreter in enumerate(interpreters):
            run(interpreter, HELD % (700000 + 1000 * number))
        for number in range(2):
            check_held(700000 + 1000 * number)
        for interpreter in interpreters:
            module.destroy(interpreter)
    assert engine.totals().dropped == 0
    interpreter = creates[-1]()
    run(interpreter, CODE)
    assert engine.disable() == 0
    module.destroy(interpreter)
    engine.enable(5)
    engine.snapshot(PATH)
    tms.File(PATH).check()
    print("interpreted")


main()
