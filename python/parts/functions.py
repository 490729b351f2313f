# SPDX-License-Identifier: MIT
# What tracing does, and what is known of the blocks and of the process.


def _find_core():
    """The C module of the tracer that is attached, if it is of our version, or else our own.

    Who is traced twice would be told two truths.
    """
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "_pytracemalloc" and finder.version == "%VERSION%":
            return finder
    import _pytracemalloc
    return _pytracemalloc


_borrows_core = False
if "_core" not in globals():  # set by the loader in an attached process
    _core = _find_core()
    _borrows_core = _core in sys.meta_path

__version__ = _core.version
unseen = _core.unseen  # what this Python does not let be traced, for people; "": all is traced

__all__ = [
    "DisplayTop", "DisplayTopTask", "Filter", "GroupedStats", "Metric", "Snapshot", "StatsDiff",
    "TakeSnapshotTask", "Task", "add_exclude_filter", "add_filter", "add_include_filter",
    "cancel_tasks", "clear_filters", "clear_traces", "disable", "enable", "get_arena_size",
    "get_filters", "get_object_address", "get_object_trace", "get_process_memory", "get_stats",
    "get_tasks", "get_trace", "get_traceback_limit", "get_traced_memory", "get_traces",
    "get_tracemalloc_memory", "get_unicode_interned", "is_enabled", "set_traceback_limit",
]

try:
    _TEXT = (basestring,)
    _INTEGERS = (int, long)
except NameError:
    _TEXT = (str,)
    _INTEGERS = (int,)


def _type_name(value):
    return type(value).__name__


# ---- main functions ----

def enable():
    """Start tracing Python memory allocations.

    Does nothing if tracing is on already. The counters start at zero. In a
    forked child tracing is off. RuntimeError if tracing cannot be started.
    """
    _core.enable()


def disable():
    """Stop tracing, forget all traces and cancel the scheduled tasks.

    Filters and the traceback limit stay. Does nothing if tracing is off.
    """
    _core.disable()


def is_enabled():
    """True if Python memory allocations are being traced, False otherwise."""
    return _core.is_enabled()


def clear_traces():
    """Forget all traces; reset get_traced_memory() and get_arena_size().

    Tracing goes on. Does nothing if tracing is off.
    """
    _core.clear_traces()


def get_stats():
    """Statistics on the traced blocks: {filename: {lineno: (size, count)}}.

    size is in bytes; filename and lineno can be None. {} if tracing is off.
    """
    return _core.get_stats()


def get_tasks():
    """A new list of the scheduled tasks."""
    return _core.get_tasks()


def cancel_tasks():
    """Cancel all scheduled tasks."""
    _core.cancel_tasks()


# ---- trace functions ----

def get_traceback_limit():
    """The maximum number of frames stored in the traceback of a trace."""
    return _core.get_traceback_limit()


def set_traceback_limit(nframe):
    """Set the maximum number of frames stored in the traceback of a trace.

    It applies to new traces. ValueError if nframe is out of range.
    """
    _core.set_traceback_limit(nframe)


def get_object_address(obj):
    """Address of the main memory block of a Python object (int).

    That is the address of the object less what Python puts before it.
    """
    return _core.get_object_address(obj)


def get_object_trace(obj):
    """Trace of the main memory block of obj: (size, traceback), or None if it is not traced.

    size, in bytes, leaves out the other blocks that belong to the object.
    """
    return _core.get_object_trace(obj)


def get_trace(address):
    """Trace of the memory block at an address: (size, traceback), or None if it is not traced."""
    return _core.get_trace(address)


def get_traces():
    """All traces: {address: (size, traceback)}; {} if tracing is off.

    Equal tracebacks are the same tuple.
    """
    return _core.get_traces()


# ---- metric functions ----

def get_arena_size():
    """Size in bytes of the arenas that were allocated since tracing began.

    NotImplementedError on a Python that has no hook for arenas.
    """
    return _core.get_arena_size()


def get_process_memory():
    """Memory of the process in bytes: (rss, vms), or None where the system does not tell."""
    return _core.get_process_memory()


def get_traced_memory():
    """Current and maximum size in bytes of the traced blocks: (size, max_size)."""
    return _core.get_traced_memory()


def get_tracemalloc_memory():
    """Memory of the tracer itself in bytes: (size, free); free is the part without data."""
    return _core.get_own_memory()


def get_unicode_interned():
    """Size in bytes and length of the dictionary of interned strings: (size, length).

    The strings themselves are not counted, nor are, from Python 3.12 on, those that
    are compiled into the interpreter. None where the dictionary cannot be found.
    """
    return _core.get_unicode_interned()


# What programs may replace: Snapshot.create() asks the replacement then.
_originals = {"get_traces": get_traces, "get_stats": get_stats,
              "get_traceback_limit": get_traceback_limit}
