# SPDX-License-Identifier: MIT
# The beginning and the end; the last part, for it may switch tracing on.

import atexit


def _session_end():
    """Called when an attached tracer leaves: nothing of it may be called any more."""
    global _core
    _unregister(_core)
    if _borrows_core:
        _core = _OwnCore()


def _unregister(core):
    if hasattr(atexit, "unregister"):
        atexit.unregister(core.at_exit)
    else:  # 2.7
        handlers = atexit._exithandlers
        handlers[:] = [entry for entry in handlers if entry[0] is not core.at_exit]


if sys.version_info < (3, 4):
    # A module that goes sets its globals to None there; what a program keeps of us needs them.
    _module = sys.modules[__name__]


class _OwnCore(object):
    """Takes the place of a C module that has left; our own is imported when something is asked."""

    def __getattr__(self, name):
        global _core, _borrows_core
        import _pytracemalloc
        _borrows_core = False
        _core = _pytracemalloc
        _prepare()
        return getattr(_core, name)


def _prepare():
    _core.add_own_file(_prepare.__code__.co_filename)
    atexit.register(_core.at_exit)


def _begin():
    _prepare()
    if _borrows_core:
        _core.at_session_end(_session_end)
    nframe = _core.environment()
    if nframe == 0:
        return
    try:
        set_traceback_limit(nframe)
    except ValueError:
        sys.stderr.write("PYTRACEMALLOC: invalid number of frames\n")
    else:
        enable()


_begin()
