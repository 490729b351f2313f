# SPDX-License-Identifier: MIT
"""What the bodies begin with: tracing is off, there are no filters, and a folder is there."""
import os
import sys
import tempfile
import unittest

import pytracemalloc as t
from old import TextOut


def allocate(size):
    """bytes of exactly `size` bytes of memory, and its frame."""
    data = b"x" * (size - sys.getsizeof(b""))
    return data, (__file__, allocate.__code__.co_firstlineno + 2)


class Case(unittest.TestCase):
    def setUp(self):
        t.disable()
        t.clear_filters()
        t.set_traceback_limit(1)
        self.folder = tempfile.mkdtemp()

    def tearDown(self):
        t.disable()
        t.clear_filters()
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def unraisable(self, attribute):
        """A list of that attribute of each exception that nobody handles from now on. Python 3.7
        and before write them to stderr."""
        seen = []
        if hasattr(sys, "unraisablehook"):
            self.addCleanup(setattr, sys, "unraisablehook", sys.unraisablehook)
            sys.unraisablehook = lambda unraisable: seen.append(getattr(unraisable, attribute))
        else:
            self.addCleanup(setattr, sys, "stderr", sys.stderr)
            sys.stderr = TextOut()
        return seen

    def raises(self, kind, message, func, *args, **kwargs):
        with self.assertRaises(kind) as context:
            func(*args, **kwargs)
        if message is not None:
            self.assertEqual(str(context.exception), message)
