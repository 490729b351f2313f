# SPDX-License-Identifier: MIT
"""Finds the Pythons of this machine: TM_PYTHONS, PATH, /usr/bin, pyenv's versions; and those that
have this project's patch: TM_PYTHON_PATCHED_27, TM_PYTHON_PATCHED_33."""
import glob
import json
import os
import re
import subprocess

_PROBE = r"""
import json, os, platform, sys
try:
    import sysconfig
    gil_disabled = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
except ImportError:
    gil_disabled = shared = False
try:
    import ctypes
    api = hasattr(ctypes.pythonapi, "PyMem_SetAllocator")
except ImportError:
    api = sys.version_info >= (3, 4)
print(json.dumps([list(sys.version_info[:3]), os.path.realpath(sys.executable),
                  platform.python_implementation(), gil_disabled,
                  sys.version_info[3], api, shared]))
"""

_NAME = re.compile(r"python(\d+(\.\d+)*t?)?$")


class Python:
    """One interpreter: path, version as a tuple of three, name for test ids. has_api: it exports
    PyMem_SetAllocator, as 3.4 and later do, and older ones with the patch. is_shared: it is a
    libpython."""

    def __init__(self, path, version, origin, free_threaded, has_api=True, is_shared=False):
        self.path = path
        self.version = tuple(version)
        self.free_threaded = free_threaded
        self.has_api = has_api
        self.is_shared = is_shared
        self.name = "%d.%d.%d%s-%s" % (self.version + ("t" if free_threaded else "", origin))

    @property
    def is_refused(self):
        """No API, and nothing that can be redirected (docs/PATCHED_PYTHONS.md)."""
        return not self.has_api and not (self.is_shared and self.version[:2] == (2, 7))

    def __repr__(self):
        return "<Python %s %s>" % (self.name, self.path)


def _candidates():
    """Yields (path, origin). A folder that is not there gives nothing."""
    for path in os.environ.get("TM_PYTHONS", "").replace(":", " ").split():
            yield path, "given"
    for variable in ("TM_PYTHON_PATCHED_27", "TM_PYTHON_PATCHED_33"):
        if os.environ.get(variable):
            yield os.environ[variable], "patched"
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for path in sorted(glob.glob(os.path.join(root, "versions", "*", "bin", "python"))):
        yield path, "pyenv"
    folders = [("/usr/bin", "debian" if os.path.exists("/etc/debian_version") else "system")]
    # A shim is a script that looks for an interpreter; the interpreters themselves come above.
    folders += [(folder, "path") for folder in os.environ.get("PATH", "").split(":")
                if folder and not folder.endswith("/shims")]
    for folder, origin in folders:
        for path in sorted(glob.glob(os.path.join(folder, "python*"))):
            if _NAME.match(os.path.basename(path)) and os.access(path, os.X_OK):
                yield path, origin


def find_pythons():
    """Every CPython found, each executable once, ascending by version."""
    found, seen = {}, set()
    for path, origin in _candidates():
        if os.path.realpath(path) in seen:
            continue
        seen.add(os.path.realpath(path))
        try:
            out = subprocess.run([path, "-c", _PROBE], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, timeout=60, check=True).stdout
            version, real, implementation, free_threaded, level, api, shared = json.loads(
                out.decode())
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        if implementation != "CPython" or level != "final" or real in found:
            continue
        found[real] = Python(path, version, origin, free_threaded, api, shared)
    return sorted(found.values(), key=lambda p: (p.version, p.name))
