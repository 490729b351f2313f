# SPDX-License-Identifier: MIT
"""What the bodies need to run under 2.7 as well: names and forms that it does not have."""
import inspect
import io
import sys
import sysconfig
import unittest

import pytracemalloc

PY2 = sys.version_info < (3,)

# What can be written to by code whose text is str; 2.7's are bytes.
TextOut = io.BytesIO if PY2 else io.StringIO

# An error of a file: 2.7's open() raises this one.
FileError = IOError if PY2 else OSError

# Whether allocators other than pymalloc are in: their blocks have no GC head, and no arena hook.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# A 2.7 without the patch: what is taken by malloc is not seen, and arenas are not counted.
SEES_ALL = not pytracemalloc.unseen
COUNTS_ARENAS = SEES_ALL and not FREE_THREADED

try:
    intern = intern  # a builtin of 2.7
except NameError:
    intern = sys.intern

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


def signature(func):
    """As the document writes it: "(a, b=None)", without self."""
    if not PY2:
        found = inspect.signature(func)
        kept = [p for name, p in found.parameters.items() if name not in ("self", "cls")]
        return str(found.replace(parameters=kept))
    names = parameters(func)
    func = getattr(func, "__init__" if inspect.isclass(func) else "__func__", func)
    func = getattr(func, "__func__", func)
    found = inspect.getargspec(getattr(func, "__wrapped__", func))
    own = len(found.args[:1]) if found.args[:1] in (["self"], ["cls"]) else 0
    assert names[:own] == found.args[:own]
    return inspect.formatargspec(found.args[own:], *found[1:])


def set_switch_interval(seconds):
    if PY2:
        sys.setcheckinterval(10)
    else:
        sys.setswitchinterval(seconds)
