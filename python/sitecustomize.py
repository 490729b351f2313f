# SPDX-License-Identifier: MIT
"""Run by site at the start of every Python that has this folder on PYTHONPATH.

PYTRACEMALLOC=N (N > 0) switches tracing on with N frames. A sitecustomize that
this one hides is run afterwards, as if this one were not there.
"""


def _enable():
    import os
    if os.environ.get("PYTRACEMALLOC", "0").strip("0"):
        import pytracemalloc  # enables by itself


def _run_hidden():
    import os
    import sys
    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    name = __name__
    try:
        from importlib.machinery import PathFinder
        find_spec = PathFinder.find_spec
    except (ImportError, AttributeError):  # before 3.4
        import imp
        try:
            found = imp.find_module(name, path)
        except ImportError:
            return
        globals()["__file__"] = found[1]
        with found[0]:
            exec(compile(found[0].read(), found[1], "exec"), globals())
        return
    spec = find_spec(name, path)
    if spec is None or spec.loader is None:
        return
    globals()["__spec__"] = spec
    globals()["__file__"] = spec.origin
    spec.loader.exec_module(sys.modules[name])


try:
    _enable()
finally:
    _run_hidden()
