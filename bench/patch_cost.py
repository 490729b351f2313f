#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the patches for old Pythons cost while nothing is hooked: instructions, counted by valgrind's
callgrind, of a few loops, with what starting the interpreter takes taken off.

patch_cost.py PYTHON PATCHED: two builds of one release with the same flags, without and with the
patch. Prints a row for each loop."""
import os
import re
import subprocess
import sys

LOOPS = r'''
def objects():
    class C(object):
        pass
    keep = []
    for i in range(2500):
        c = C()
        c.a, c.b = i, {"x": i, "y": (i, i)}
        c.c = [i, i + 1, "%d items" % i]
        keep.append(c)
        if len(keep) > 100:
            del keep[:50]
def growing():
    for turn in range(8):
        items, table = [], {}
        for i in range(3000):
            items.append(i)
            table[i] = turn
def arithmetic():
    x = 0
    for i in range(60000):
        x = (x * 3 + i) & 0xffff
def text():
    line = " ".join("word%d" % i for i in range(50))
    for i in range(400):
        "-".join(line.split()).replace("o", "0")
def nothing():
    pass
'''


def instructions(python, loop):
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", python, "-S", "-c",
         LOOPS + loop + "()"], env=dict(os.environ, PYTHONHASHSEED="0"), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, universal_newlines=True, check=True)
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


def main():
    plain, patched = sys.argv[1:]
    start = [instructions(python, "nothing") for python in (plain, patched)]
    for loop in ("objects", "growing", "arithmetic", "text"):
        before, after = (instructions(python, loop) - base
                         for python, base in zip((plain, patched), start))
        print("%-10s %12d %12d %+7.2f %%" % (loop, before, after, 100.0 * after / before - 100))


main()
