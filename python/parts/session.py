# SPDX-License-Identifier: MIT
# The beginning and the end; the last part, for it may switch tracing on.

import atexit


def _session_end():
    """Called when an attached tracer leaves: nothing of it may be called at exit."""
    if hasattr(atexit, "unregister"):
        atexit.unregister(_core.at_exit)
    else:  # 2.7
        handlers = atexit._exithandlers
        handlers[:] = [entry for entry in handlers if entry[0] is not _core.at_exit]


if sys.version_info < (3, 4):
    # A module that goes sets its globals to None there; what a program keeps of us needs them.
    _module = sys.modules[__name__]


def _begin():
    _core.add_own_file(_begin.__code__.co_filename)
    atexit.register(_core.at_exit)
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
