# SPDX-License-Identifier: MIT
"""Trace the memory allocations of Python.

Sizes are in bytes, delays in seconds, addresses are integers. A traceback is a
tuple of (filename, lineno) pairs, the most recent call first; an unknown
filename or line number is None. A trace is a (size, traceback) pair.

    import pytracemalloc
    pytracemalloc.enable()
    # ... run the application ...
    pytracemalloc.DisplayTop().display()

The work is done in C, by the module _pytracemalloc, which nobody else should
call. This layer works with Python 2.7 and 3.3 and later.
"""
import os
import sys
