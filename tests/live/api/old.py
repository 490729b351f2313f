# SPDX-License-Identifier: MIT
"""What the bodies need to run under 2.7 as well: names and forms that it does not have."""
import inspect
import io
import sys
import unittest

import pytracemalloc

PY2 = sys.version_info < (3,)

# What can be written to by code whose text is str; 2.7's are bytes.
TextOut = io.BytesIO if PY2 else io.StringIO

# An error of a file: 2.7's open() raises this one.
FileError = IOError if PY2 else OSError

# A 2.7 without the patch: what is taken by malloc is not seen, and arenas are not counted.
SEES_ALL = not pytracemalloc.unseen

if PY2:
    unittest.TestCase.assertRegex = unittest.TestCase.assertRegexpMatches


def zeros(n):
    """bytes that are a new block of memory; bytes(n) is the text of a number in 2.7."""
    return bytes(bytearray(n))


def parameters(func):
    """Names of a function's or a class's parameters."""
    if not PY2:
        return list(inspect.signature(func).parameters)
    func = getattr(func, "__init__" if inspect.isclass(func) else "__func__", func)
    func = getattr(func, "__func__", func)
    func = getattr(func, "__wrapped__", func)
    found = inspect.getargspec(func)
    return found.args + [name for name in (found.varargs, found.keywords) if name]


def set_switch_interval(seconds):
    if PY2:
        sys.setcheckinterval(10)
    else:
        sys.setswitchinterval(seconds)
