# SPDX-License-Identifier: MIT
"""Beside the standard library's tracemalloc. Arguments: a path; the order of a/A (ours on, off),
t/T (tracemalloc on, off) and . (only look), e.g. "atAT". Allocators must work all the time, and the
numbers be true or refused."""
import os
import sys
import tracemalloc

import engine
import tms

PATH, ORDER = sys.argv[1], sys.argv[2]


def churn():
    kept = [[str(i)] * 10 for i in range(500)]
    for _ in range(20):
        blocks = [bytearray(i) for i in range(1000)]
        del blocks
    return kept


def main():
    kept, ours, theirs, said = [churn()], False, False, []
    for step in ORDER:
        if step == "a":
            engine.enable(2)
            ours = True
        elif step == "A":
            said.append("restored" if engine.disable() == 0 else "inert")
            ours = False
        elif step == "t":
            tracemalloc.start(2)
        elif step == "T":
            tracemalloc.stop()
        kept.append(churn())
        del kept[:-2]
        if ours:
            before = engine.totals().traced_bytes
            block = bytes(1000000)
            after = engine.totals().traced_bytes
            try:
                engine.snapshot(PATH)
                snapshot = tms.File(PATH)
                snapshot.check()
                assert after - before >= 1000000, "the hooks are not in place, and it was not noticed"
                said.append("true")
            except engine.EngineError as error:
                assert str(error).startswith("-67:"), error  # ENOLINK
                said.append("displaced")
            del block
        theirs = step == "t" or (theirs and step != "T")
        assert tracemalloc.is_tracing() == theirs
    os.unlink(PATH) if os.path.exists(PATH) else None
    print("orders", " ".join(said))


main()
