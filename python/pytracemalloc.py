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
call. This layer works with Python 2.7 and 3.4 and later.
"""
import os
import sys


def _find_analyzer():
    """Path of tm-analyze: TM_ANALYZE, beside the module, or on PATH; None: not found."""
    given = os.environ.get("TM_ANALYZE")
    if given:
        return given
    here = os.path.dirname(os.path.abspath(__file__))
    folders = [here, os.path.join(here, "..", "..", "bin"),
               os.path.join(here, "..", "..", "..", "bin"),
               os.path.join(here, "..", "..", "..", "..", "bin")]
    folders += os.environ.get("PATH", "").split(os.pathsep)
    for folder in folders:
        path = os.path.normpath(os.path.join(folder or ".", "tm-analyze"))
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _main():
    """python -m pytracemalloc: the analyzer's own code, in its own process."""
    path = _find_analyzer()
    if path is None:
        sys.stderr.write("ERROR: tm-analyze was not found: install it, or set TM_ANALYZE to it\n")
        sys.exit(1)
    sys.stdout.flush()
    try:
        os.execv(path, [path] + sys.argv[1:])
    except OSError as error:
        sys.stderr.write("ERROR: cannot run %s: %s\n" % (path, error.strerror))
        sys.exit(1)


if __name__ == "__main__":
    _main()

import atexit
import datetime
import gc
import time

try:
    _core  # set by the loader in an attached process
except NameError:
    import _pytracemalloc as _core

__version__ = _core.version

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


# ---- filters ----

def _check_filename(filename):
    if filename is not None and not isinstance(filename, _TEXT):
        raise TypeError("filename must be a str or None")


class Filter(object):
    """Filter(include, pattern, lineno=None, traceback=False)

    Selects memory allocations by file name, line and frames. include: whether
    it selects what is traced, or what is ignored. pattern: a file name in which
    * matches anything; .pyc and .pyo at the end become .py. lineno: None, or
    below 1: any line. traceback: look at all frames, not at the first alone.
    The keyword filename is another name for pattern.

    The match methods say whether the filter keeps: where an inclusive filter
    says True, an exclusive one says False. Filters cannot be changed; equal ones
    compare equal. TypeError, ValueError for a pattern that is none.
    """
    __slots__ = ("_include", "_pattern", "_lineno", "_traceback")

    def __init__(self, include, pattern=None, lineno=None, traceback=False, filename=None):
        if pattern is None:
            pattern = filename
        elif filename is not None:
            raise TypeError("pattern and filename are two names of one argument")
        if not isinstance(pattern, _TEXT):
            raise TypeError("filename pattern must be a str, not %s" % _type_name(pattern))
        if lineno is not None:
            if not isinstance(lineno, _INTEGERS):
                raise TypeError("lineno must be an int or None, not %s" % _type_name(lineno))
            if lineno < 1:
                lineno = None
        self._include = bool(include)
        self._pattern = _core.filter_normalize(pattern)
        self._lineno = lineno
        self._traceback = bool(traceback)

    @property
    def include(self):
        """True: only what matches is traced. False: what matches is ignored."""
        return self._include

    @property
    def pattern(self):
        """File name, in which * matches any text."""
        return self._pattern

    @property
    def lineno(self):
        """Line number (int), None: any."""
        return self._lineno

    @property
    def traceback(self):
        """True: all frames of a traceback are looked at; False: the most recent one alone."""
        return self._traceback

    def _key(self):
        return (self._include, self._pattern, self._lineno, self._traceback)

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, Filter) else NotImplemented

    def __ne__(self, other):
        return self._key() != other._key() if isinstance(other, Filter) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return (type(self), self._key())

    def __repr__(self):
        return ("<pytracemalloc.Filter include=%r pattern=%r lineno=%r traceback=%r>"
                % self._key())

    def match(self, filename, lineno):
        """Whether the filter keeps this file name and line; either can be None."""
        _check_filename(filename)
        if filename is None:
            return not self._include
        found = _core.filter_match(self._pattern, self._lineno, filename, lineno)
        return found == self._include

    def match_filename(self, filename):
        """Whether the filter keeps this file name, whatever the line."""
        _check_filename(filename)
        if filename is None:
            return not self._include
        return _core.filter_match(self._pattern, None, filename, None) == self._include

    def match_lineno(self, lineno):
        """Whether the filter keeps this line, whatever the file."""
        if self._lineno is None:
            return self._include
        if lineno is None or lineno < 1:
            return not self._include
        return (lineno == self._lineno) == self._include

    def match_traceback(self, traceback):
        """Whether the filter keeps this traceback, a tuple of (filename, lineno) tuples.

        An inclusive filter that looks at all frames keeps if any frame matches,
        an exclusive one if none does. TypeError for what is no traceback.
        """
        if not isinstance(traceback, tuple):
            raise TypeError("traceback must be a tuple")
        for frame in traceback:
            if not isinstance(frame, tuple) or len(frame) != 2:
                raise TypeError("frames must be 2-tuples")
        if not traceback:
            return not self._include
        frames = traceback if self._traceback else traceback[:1]
        kept = [self.match(filename, lineno) for filename, lineno in frames]
        return any(kept) if self._include else all(kept)


def add_filter(filter):
    """Add a Filter on Python memory allocations; traces that exist stay.

    An allocation is traced if some inclusive filter keeps it, or there is none,
    and every exclusive filter keeps it. A filter that is there already is not
    added again.
    """
    if not isinstance(filter, Filter):
        raise TypeError("filter must be a Filter, not %s" % _type_name(filter))
    if filter._key() not in _core.get_filters():
        _core.add_filter(filter._key())


def add_include_filter(filename, lineno=None, traceback=False):
    """Add an inclusive filter: see add_filter() and Filter."""
    add_filter(Filter(True, filename, lineno, traceback))


def add_exclude_filter(filename, lineno=None, traceback=False):
    """Add an exclusive filter: see add_filter() and Filter."""
    add_filter(Filter(False, filename, lineno, traceback))


def clear_filters():
    """Remove all filters on Python memory allocations."""
    _core.clear_filters()


def get_filters():
    """The filters on Python memory allocations: a new list, inclusive ones first."""
    keys = _core.get_filters()
    return ([Filter(*key) for key in keys if key[0]] + [Filter(*key) for key in keys if not key[0]])


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

    The strings themselves are not counted. None where the interpreter does not
    let it be read.
    """
    return _core.get_unicode_interned()


# What programs may replace: Snapshot.create() asks the replacement then.
_originals = {"get_traces": get_traces, "get_stats": get_stats}


# ---- snapshots ----

class Metric(object):
    """Metric(name, value, format)

    A value at the time of a snapshot. format: 'int', 'size' (bytes), or 'percent'
    (1.0 is 100%).
    """
    __slots__ = ("name", "value", "format")

    def __init__(self, name, value, format):
        self.name = name
        self.value = value
        self.format = format

    def __eq__(self, other):
        if not isinstance(other, Metric):
            return NotImplemented
        return self.name == other.name and self.value == other.value

    def __ne__(self, other):
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self):
        return hash((self.name, self.value))

    def __reduce__(self):
        return (type(self), (self.name, self.value, self.format))

    def __repr__(self):
        return "<Metric name=%r value=%r format=%r>" % (self.name, self.value, self.format)


_GROUPS = {"line": 0, "filename": 1, "address": 4}  # enum tm_group_by
_NOT_MADE = object()


def _to_ns(timestamp):
    """Nanoseconds since the epoch of a datetime in local time."""
    offset = getattr(timestamp, "utcoffset", lambda: None)()
    if offset is not None:
        timestamp = (timestamp - offset).replace(tzinfo=None)
        seconds = int((timestamp - datetime.datetime(1970, 1, 1)).total_seconds())
    else:
        seconds = int(time.mktime(timestamp.timetuple()))
    return seconds * 10 ** 9 + timestamp.microsecond * 1000


def _from_ns(timestamp_ns):
    seconds, rest = divmod(timestamp_ns, 10 ** 9)
    return datetime.datetime.fromtimestamp(seconds).replace(microsecond=rest // 1000)


def _path(filename):
    try:
        return os.fspath(filename)
    except AttributeError:
        return filename


class GroupedStats(object):
    """GroupedStats(timestamp, stats, group_by, cumulative=False, metrics=None)

    Traces summed by a key: stats is {key: (size, count)}. See Snapshot.top_by().
    """

    def __init__(self, timestamp, stats, group_by, cumulative=False, metrics=None):
        self.timestamp = timestamp
        self._stats = stats
        self._groups = None
        self.group_by = group_by
        self.cumulative = cumulative
        self.metrics = metrics

    @property
    def stats(self):
        """{key: (size, count)}; made when it is first asked for."""
        if self._stats is _NOT_MADE:
            self._stats = _core.groups_stats(self._groups)
        return self._stats

    @stats.setter
    def stats(self, stats):
        self._stats = stats

    def _is_native(self):
        return self._groups is not None and self._stats is _NOT_MADE

    def compare_to(self, old_stats=None):
        """Differences to an older GroupedStats: a StatsDiff, which is not sorted.

        None in keys becomes '' for a file name and 0 for a line. Without an old
        one all differences are 0.
        """
        if self._is_native() and (old_stats is None or (
                old_stats._is_native() and old_stats.group_by == self.group_by
                and old_stats.cumulative == self.cumulative)):
            changes = _core.groups_compare(self._groups, old_stats and old_stats._groups)
            diff = StatsDiff(_NOT_MADE, old_stats, self)
            diff._changes = changes
            return diff
        return StatsDiff(self._compare(old_stats), old_stats, self)

    def _compare(self, old_stats):
        differences = []
        old = None if old_stats is None else dict(old_stats.stats)
        for key, (size, count) in self.stats.items():
            if old is None:
                row = (0, size, 0, count)
            else:
                old_size, old_count = old.pop(key, (0, 0))
                row = (size - old_size, size, count - old_count, count)
            differences.append(row + (self._sortable(key),))
        for key, (size, count) in (old or {}).items():
            differences.append((-size, 0, -count, 0, self._sortable(key)))
        return differences

    def _sortable(self, key):
        if self.group_by == "filename":
            return "" if key is None else key
        if self.group_by == "line":
            return (key[0] or "", key[1] or 0)
        return key


class StatsDiff(object):
    """StatsDiff(differences, old_stats, new_stats)

    Differences between two GroupedStats: a list of (size_diff, size, count_diff,
    count, key). old_stats can be None.
    """

    def __init__(self, differences, old_stats, new_stats):
        self._differences = differences
        self._changes = None
        self.old_stats = old_stats
        self.new_stats = new_stats

    @property
    def differences(self):
        """[(size_diff, size, count_diff, count, key)]; made when it is first asked for."""
        if self._differences is _NOT_MADE:
            self._differences = _core.changes_rows(self._changes, -1)
        return self._differences

    @differences.setter
    def differences(self, differences):
        self._differences = differences

    def sort(self):
        """Sort the differences: by abs(size_diff), size, abs(count_diff), count, key, descending."""
        if self._differences is not _NOT_MADE:
            self._differences.sort(key=self._sort_key, reverse=True)

    @staticmethod
    def _sort_key(row):
        return (abs(row[0]), row[1], abs(row[2]), row[3], row[4])

    def _top(self, count):
        """(the first rows, number of all, row of the total, row of the rest)"""
        if self._differences is _NOT_MADE:
            number, (total, rest) = _core.changes_sums(self._changes, count)
            return _core.changes_rows(self._changes, count), number, total, rest
        self.sort()
        rows = self._differences
        return (rows[:count], len(rows), self._sum(rows), self._sum(rows[count:]))

    @staticmethod
    def _sum(rows):
        return tuple(sum(row[i] for row in rows) for i in range(4)) + (None,)


def _snapshot_arguments(init):
    """Takes (timestamp, pid, traceback_limit, stats, traces, metrics) as well."""
    names = ("timestamp", "pid", "traceback_limit", "stats", "traces", "metrics")

    def __init__(self, *args, **kwargs):
        if len(args) > 2 and isinstance(args[2], _INTEGERS):
            for name, value in zip(names, args):
                if name in kwargs:
                    raise TypeError("multiple values for argument %r" % name)
                kwargs[name] = value
            args = ()
        init(self, *args, **kwargs)

    __init__.__wrapped__ = init
    __init__.__doc__ = init.__doc__
    return __init__


class Snapshot(object):
    """Snapshot(timestamp, pid, traces=None, stats=None, metrics=None)

    The memory blocks allocated by Python at one time. traces is what get_traces()
    gave, stats what get_stats() gave; one of them can be None. An int as the third
    argument is the traceback limit, and then stats comes before traces.

    Snapshots that were taken, loaded or filtered hold their data in C; the
    dictionaries are made when they are first asked for, and count from then on.
    """

    @_snapshot_arguments
    def __init__(self, timestamp, pid, traces=None, stats=None, metrics=None,
                 traceback_limit=None):
        if traces is None and stats is None:
            raise ValueError("traces and stats cannot be None at the same time")
        if traceback_limit is None:
            traceback_limit = get_traceback_limit()
            for trace in (traces or {}).values():
                traceback_limit = max(traceback_limit, len(trace[1]))
        self.timestamp = timestamp
        self.pid = pid
        self.traceback_limit = traceback_limit
        self.metrics = {} if metrics is None else metrics
        self._image = None
        self._traces = traces
        self._stats = stats

    @classmethod
    def _of_image(cls, image):
        info = _core.image_info(image)
        self = cls.__new__(cls)
        self.timestamp = _from_ns(info["timestamp_ns"])
        self.pid = info["pid"]
        self.traceback_limit = info["traceback_limit"]
        self.metrics = dict((name, Metric(name, value, format))
                            for name, (value, format) in info["metrics"])
        self._image = image
        self._traces = _NOT_MADE if info["traces"] else None
        self._stats = _NOT_MADE if info["stats"] else None
        return self

    @property
    def traces(self):
        """{address: (size, traceback)} or None; made when it is first asked for."""
        if self._traces is _NOT_MADE:
            self._traces = _core.image_traces(self._image)
        return self._traces

    @traces.setter
    def traces(self, traces):
        self._traces = traces

    @property
    def stats(self):
        """{filename: {lineno: (size, count)}} or None; made when it is first asked for."""
        if self._stats is _NOT_MADE:
            self._stats = _core.image_stats(self._image)
        return self._stats

    @stats.setter
    def stats(self, stats):
        self._stats = stats

    def __reduce__(self):
        return (type(self), (self.timestamp, self.pid, self.traces, self.stats, self.metrics,
                             self.traceback_limit))

    def _build(self, traces, stats):
        return _core.image_build(
            _to_ns(self.timestamp), self.pid, self.traceback_limit,
            traces if traces is None or isinstance(traces, dict) else dict(traces),
            stats if stats is None or isinstance(stats, dict) else dict(stats))

    def _is_native(self):
        """Whether the image says all: no dictionary can have been changed."""
        return (self._image is not None and self._traces in (None, _NOT_MADE)
                and self._stats in (None, _NOT_MADE))

    def _get_image(self):
        if self._is_native():
            return self._image
        return self._build(self.traces, self.stats)

    def _get_metrics(self):
        metrics = [self.metrics[name] for name in sorted(self.metrics or {})]
        return [(metric.name, metric.value, metric.format) for metric in metrics]

    @classmethod
    def create(cls, traces=False, metrics=True):
        """Take a snapshot of the traced blocks.

        traces: keep every trace, not only the statistics. metrics: add metrics of
        the process, the garbage collector and the tracer. RuntimeError if tracing
        is off.
        """
        if not is_enabled():
            raise RuntimeError("the pytracemalloc module must be enabled to take a snapshot")
        if (get_traces is _originals["get_traces"] and get_stats is _originals["get_stats"]
                and _core.is_enabled()):
            self = cls._of_image(_core.image_take(bool(traces)))
            self.metrics = {}
        else:
            self = cls.__new__(cls)
            Snapshot.__init__(self, datetime.datetime.now(), os.getpid(), get_traceback_limit(),
                              get_stats(), get_traces() if traces else None)
        if metrics:
            self.add_gc_metrics()
            self.add_process_memory_metrics()
            self.add_tracemalloc_metrics()
        return self

    def add_metric(self, name, value, format):
        """Add a Metric and return it. ValueError if there is one of that name."""
        if name in self.metrics:
            raise ValueError("name already present: %r" % (name,))
        metric = self.metrics[name] = Metric(name, value, format)
        return metric

    def get_metric(self, name, default=None):
        """Value of the metric of that name, or default."""
        metric = self.metrics.get(name)
        return default if metric is None else metric.value

    def add_gc_metrics(self):
        """Add gc.objects: the number of objects that the garbage collector knows."""
        self.add_metric("gc.objects", len(gc.get_objects()), "int")

    def add_process_memory_metrics(self):
        """Add process_memory.rss and process_memory.vms, in bytes, where the system tells them."""
        memory = get_process_memory()
        if memory is not None:
            self.add_metric("process_memory.rss", memory[0], "size")
            self.add_metric("process_memory.vms", memory[1], "size")

    def add_tracemalloc_metrics(self):
        """Add metrics of the traced memory, of the tracer's own memory, and of the arenas.

        tracemalloc.traces, the number of traces, is there if the snapshot has traces.
        """
        size, max_size = get_traced_memory()
        self.add_metric("tracemalloc.traced.size", size, "size")
        self.add_metric("tracemalloc.traced.max_size", max_size, "size")
        if self._traces is _NOT_MADE:
            self.add_metric("tracemalloc.traces", _core.image_info(self._image)["count"], "int")
        elif self._traces is not None:
            self.add_metric("tracemalloc.traces", len(self._traces), "int")
        size, free = get_tracemalloc_memory()
        self.add_metric("tracemalloc.module.size", size, "size")
        self.add_metric("tracemalloc.module.free", free, "size")
        if size:
            self.add_metric("tracemalloc.module.fragmentation", float(free) / size, "percent")
        try:
            arena_size = get_arena_size()
        except NotImplementedError:
            return
        self.add_metric("tracemalloc.arena_size", arena_size, "size")

    def apply_filters(self, filters):
        """Keep only the traces and statistics that all the filters, a list of Filter, keep."""
        keys = []
        for filter in filters:
            if not isinstance(filter, Filter):
                raise TypeError("filter must be a Filter, not %s" % _type_name(filter))
            keys.append(filter._key())
        if not keys:
            return
        image = _core.image_filter(self._get_image(), keys)
        self._traces = None if self._traces is None else _NOT_MADE
        self._stats = None if self._stats is None else _NOT_MADE
        self._image = image

    def top_by(self, group_by, cumulative=False):
        """Sum the blocks by 'filename', 'line' or 'address': a GroupedStats.

        The keys are str, (str, int) and int. cumulative: count every frame of a
        traceback, as often as it occurs; without effect by address, and where the
        traceback limit is below 2. ValueError for another group_by, or where
        traces are needed and there are none.
        """
        if group_by not in _GROUPS:
            raise ValueError("unknown group_by value: %r" % (group_by,))
        if self.traceback_limit < 2 or group_by == "address":
            cumulative = False
        cumulative = bool(cumulative)
        if (cumulative or group_by == "address") and self._traces is None:
            raise ValueError("need traces")
        if self._is_native():
            image = self._image
        elif cumulative or group_by == "address" or self._stats is None:
            image = self._build(self.traces, None)
        else:
            image = self._build(None, self.stats)
        top = GroupedStats(self.timestamp, _NOT_MADE, group_by, cumulative, self.metrics)
        top._groups = _core.groups_make(image, _GROUPS[group_by], cumulative)
        return top

    def write(self, filename):
        """Write the snapshot into a file; OSError leaves no file behind.

        A name that ends in .pickle gives a pickle that tracemalloc.Snapshot.load()
        of the standard library reads as well; any other a .tms file.
        """
        _core.image_save(self._get_image(), _path(filename), _to_ns(self.timestamp), self.pid,
                         self.traceback_limit, self._get_metrics())

    @classmethod
    def load(cls, filename, traces=True):
        """Load a snapshot from a file, without its traces if traces is False.

        Nothing in the file is executed. OSError; TypeError if the file is no
        snapshot, or one of a newer version.
        """
        filename = _path(filename)
        with open(filename, "rb") as file:
            head = file.read(8)
            if head[:4] == b"\x89TMS":
                return cls._of_image(_core.image_load(filename, bool(traces)))
            file.seek(0)
            return _load_pickle(cls, file, bool(traces))


# ---- pickles ----

class _Inert(object):
    """Stands for whatever object a pickle wants to make: it takes its state and does nothing."""

    def __new__(cls, *args):
        self = object.__new__(cls)
        self.arguments = args
        return self

    def __init__(self, *args):
        pass

    def __call__(self, *args):
        raise TypeError("invalid file format")

    def __setstate__(self, state):
        if isinstance(state, tuple) and len(state) == 2:
            state = dict(state[0] or {}, **(state[1] or {}))
        if not isinstance(state, dict):
            raise TypeError("invalid file format")
        self.__dict__.update(state)


def _inert_class(module, name):
    return type(str("_Inert"), (_Inert,), {"origin": (module, name)})


_PICKLED = {
    ("tracemalloc", "Snapshot"), ("tracemalloc", "_Traces"), ("tracemalloc", "Traceback"),
    ("tracemalloc", "Frame"), ("tracemalloc", "Trace"), ("pytracemalloc", "Snapshot"),
    ("pytracemalloc", "Metric"),
}


def _read_pickle(file):
    import pickle

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("datetime", "datetime"):
                return _inert_class(module, name)
            if (module, name) in _PICKLED:
                return _inert_class(module, name)
            raise TypeError("invalid file format")

        def persistent_load(self, pid):
            raise TypeError("invalid file format")

    try:
        return Unpickler(file).load()
    except (OSError, MemoryError):
        raise
    except Exception:
        raise TypeError("invalid file format")


def _unknown(value, none):
    return None if value == none else value


def _traceback_of(frames):
    return tuple((_unknown(frame[0], "<unknown>"), _unknown(frame[1], 0)) for frame in frames)


def _traces_of(content):
    """{address: (size, traceback)}; where the pickle has no addresses they are 1, 2, 3 ..."""
    if content.traces is None:
        return None
    rows = getattr(content.traces, "_traces", content.traces)
    addresses = getattr(content, "addresses", None)
    if addresses is None:
        addresses = range(1, len(rows) + 1)
    if len(addresses) != len(rows):
        raise TypeError("invalid file format")
    empty = set(getattr(content, "empty_tracebacks", ()))
    tracebacks = {}
    traces = {}
    for i, row in enumerate(rows):
        size, frames = row[-2:] if len(row) < 4 else row[1:3]
        frames = () if i in empty else frames
        if frames not in tracebacks:
            tracebacks[frames] = _traceback_of(frames)
        traces[addresses[i]] = (size, tracebacks[frames])
    return traces


def _stats_of(traces):
    """Statistics by the most recent frame, for pickles that have none."""
    stats = {}
    for size, traceback in traces.values():
        filename, lineno = traceback[0] if traceback else (None, None)
        lines = stats.setdefault(filename, {})
        old_size, old_count = lines.get(lineno, (0, 0))
        lines[lineno] = (old_size + size, old_count + 1)
    return stats


def _timestamp_of(content, file):
    if hasattr(content, "timestamp_ns"):
        return _from_ns(int(content.timestamp_ns))
    return datetime.datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime)


def _load_pickle(cls, file, with_traces):
    content = _read_pickle(file)
    if not isinstance(content, _Inert) or content.origin[1] != "Snapshot":
        raise TypeError("invalid file format")
    try:
        traces = _traces_of(content)
        stats = getattr(content, "stats", None)
        if stats is None and (not hasattr(content, "stats") or not with_traces):
            stats = _stats_of(traces)
        self = cls.__new__(cls)
        Snapshot.__init__(self, _timestamp_of(content, file), getattr(content, "pid", 0),
                          int(content.traceback_limit), stats, traces if with_traces else None)
        for name, (value, format) in getattr(content, "metrics", {}).items():
            self.add_metric(name, value, format)
        if self._stats is not None or self._traces is not None:
            self._image = self._build(self._traces, self._stats)
            self._traces = None if self._traces is None else _NOT_MADE
            self._stats = None if self._stats is None else _NOT_MADE
        return self
    except (OSError, MemoryError):
        raise
    except Exception:
        raise TypeError("invalid file format")


# ---- display ----

_STYLES = {"bold": "1", "cyan": "36", "yellow": "33"}
_TITLES = {"line": "filename and line number", "filename": "filename", "address": "address"}


def _format_size(size, signed=False):
    form = "%+d %s" if signed else "%d %s"
    amount = abs(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 5 * 1024 or unit == "TiB":
            break
        amount //= 1024
    return form % (amount if size >= 0 else -amount, unit)


def _format_value(value, format, signed=False):
    if format == "size":
        return _format_size(value, signed)
    if format == "percent":
        return ("%+.1f%%" if signed else "%.1f%%") % (value * 100.0)
    return ("%+d" if signed else "%d") % value


def _format_timestamp(timestamp):
    return str(timestamp).split(".")[0]


class DisplayTop(object):
    """Displays the top of the allocated memory blocks."""

    def __init__(self):
        self.size = True
        self.count = True
        self.average = True
        self.metrics = True
        self.color = None
        self.compare_to_previous = True
        self.filename_parts = 3
        self.previous_top_stats = None

    def display(self, count=10, group_by="line", cumulative=False, file=None, callback=None):
        """Take a snapshot, display its top, and return it.

        callback(snapshot), if given, can add metrics. file: default sys.stdout.
        """
        traces = cumulative or group_by == "address"
        snapshot = Snapshot.create(traces=traces, metrics=self.metrics)
        if callback is not None:
            callback(snapshot)
        self.display_snapshot(snapshot, count, group_by, cumulative, file)
        return snapshot

    def display_snapshot(self, snapshot, count=10, group_by="line", cumulative=False, file=None):
        """Display the top of a Snapshot, compared with the one displayed before."""
        self.display_top_stats(snapshot.top_by(group_by, cumulative), count, file)

    def display_top_stats(self, top_stats, count=10, file=None):
        """Display the top of a GroupedStats, compared with the one displayed before."""
        previous = self.previous_top_stats
        if previous is not None and (previous.group_by, previous.cumulative) != (
                top_stats.group_by, top_stats.cumulative):
            previous = None  # keys of another kind
        self.display_top_diff(top_stats.compare_to(previous), count, file)
        if self.compare_to_previous or previous is None:
            self.previous_top_stats = top_stats

    def display_top_diff(self, top_diff, count=10, file=None):
        """Display the biggest differences of a StatsDiff."""
        if file is None:
            file = sys.stdout
        color = self.color
        if color is None:
            color = (not os.environ.get("NO_COLOR")
                     and hasattr(file, "isatty") and bool(file.isatty()))
        file.write("\n".join(self._lines(top_diff, count, color)) + "\n")

    @staticmethod
    def _style(text, style, color):
        if not color:
            return text
        codes = ";".join(_STYLES[name] for name in style.split())
        return "\033[%sm%s\033[0m" % (codes, text)

    def _lines(self, top_diff, count, color):
        new, old = top_diff.new_stats, top_diff.old_stats
        rows, number, total, rest = top_diff._top(max(count, 0))
        yield self._header(new, old, len(rows), color)
        for i, row in enumerate(rows):
            key = self._key(new.group_by, row[4], color)
            amounts = self._amounts(row, new, old is not None, color)
            yield "#%d: %s%s" % (i + 1, key, ": " + amounts if amounts else "")
        if number > len(rows):
            more = self._style("%d more" % (number - len(rows)), "cyan", color)
            yield "%s: %s" % (more, self._amounts(rest, new, old is not None, color))
        if not new.cumulative:
            yield "Traced Python memory: " + self._amounts(total, new, old is not None, color)
        if self.metrics:
            for line in self._metric_lines(new.metrics, old.metrics if old else None, color):
                yield line
        yield ""

    def _header(self, new, old, number, color):
        title = "%s %d allocations per %s" % (
            "Cumulative top" if new.cumulative else "Top", number, _TITLES[new.group_by])
        text = "%s: %s" % (self._style(_format_timestamp(new.timestamp), "bold", color),
                           self._style(title, "cyan", color))
        if old is not None:
            text += " (compared to %s)" % self._style(_format_timestamp(old.timestamp), "bold",
                                                      color)
        return text

    def _filename(self, name, color):
        if not name:
            return "???"
        parts = name.split("/")
        if len(parts) > self.filename_parts:
            parts = ["..."] + parts[-self.filename_parts:]
        if len(parts) == 1:
            return parts[0]
        return self._style("/".join(parts[:-1]) + "/", "cyan", color) + parts[-1]

    def _key(self, group_by, key, color):
        if group_by == "address":
            return "memory block " + self._style("0x%x" % key, "bold", color)
        if group_by == "filename":
            return self._filename(key, color)
        return "%s:%s" % (self._filename(key[0], color), key[1] or "?")

    def _amounts(self, row, new, compared, color):
        size_diff, size, count_diff, count = row[:4]
        parts = []
        if self.size:
            text = self._style(_format_size(size), "bold" if compared else "yellow", color)
            if compared:
                text += " (%s)" % self._style(_format_size(size_diff, True), "yellow", color)
            parts.append(("size=" if self.count or self.average else "") + text)
        if self.count and new.group_by != "address" and (count or count_diff):
            parts.append("count=%d" % count + (" (%+d)" % count_diff if compared else ""))
        if self.average and count > 1:
            parts.append("average=" + _format_size(size // count))
        return ", ".join(parts)

    def _metric_lines(self, metrics, old_metrics, color):
        metrics, old_metrics = metrics or {}, old_metrics or {}
        names = sorted(set(metrics) | set(old_metrics))
        if names:
            yield ""
        for name in names:
            metric, old = metrics.get(name), old_metrics.get(name)
            format = (metric or old).format
            value = metric.value if metric else 0
            text = "%s: %s" % (name, self._style(_format_value(value, format), "bold", color))
            if old is not None:
                text += " (%s)" % _format_value(value - old.value, format, True)
            yield text


# ---- tasks ----

def _task_arguments(init):
    """Lets any keyword through to the task's function, `func` and `self` included."""
    def __init__(*args, **kwargs):
        if len(args) < 2:
            raise ValueError("missing func parameter")
        self = args[0]
        self._delay = None
        self._threshold = None
        self.func = args[1]
        self.func_args = args[2:]
        self.func_kwargs = kwargs or None

    __init__.__wrapped__ = init
    __init__.__doc__ = init.__doc__
    return __init__


class Task(object):
    """Task(func, *args, **kw)

    Calls func(*args, **kw) when the traced memory has grown or shrunk by a
    threshold in bytes, or after a delay in seconds. The call is made by the main
    thread, between two bytecodes; where the main thread is blocked, by another
    thread after 100 ms.
    """

    @_task_arguments
    def __init__(self, func, *args, **kw):
        pass

    @property
    def func(self):
        """The function, a callable object."""
        return self._func

    @func.setter
    def func(self, func):
        if not callable(func):
            raise TypeError("func must be a callable object, not %s" % _type_name(func))
        self._func = func

    @property
    def func_args(self):
        """Arguments of the function, a tuple."""
        return self._func_args

    @func_args.setter
    def func_args(self, args):
        if not isinstance(args, tuple):
            raise TypeError("func_args must be a tuple, not %s" % _type_name(args))
        self._func_args = args

    @property
    def func_kwargs(self):
        """Keyword arguments of the function, a dict or None."""
        return self._func_kwargs

    @func_kwargs.setter
    def func_kwargs(self, kwargs):
        if kwargs is not None and not isinstance(kwargs, dict):
            raise TypeError("func_kwargs must be a dict or None, not %s" % _type_name(kwargs))
        self._func_kwargs = kwargs

    def call(self):
        """Call func(*args, **kw) and return the result."""
        return self._func(*self._func_args, **(self._func_kwargs or {}))

    def cancel(self):
        """Cancel the task; does nothing if it is not scheduled."""
        _core.task_cancel(self)

    def is_scheduled(self):
        """Whether the task is scheduled."""
        return _core.task_is_scheduled(self)

    def get_delay(self):
        """The delay in seconds, or None."""
        return self._delay

    def set_delay(self, seconds):
        """Set the delay in seconds (a float is truncated), None: no timer.

        A scheduled task is scheduled anew. ValueError if it is not positive.
        """
        if seconds is not None:
            if not isinstance(seconds, _INTEGERS + (float,)):
                raise TypeError("delay must be a number or None, not %s" % _type_name(seconds))
            seconds = int(seconds)
            if seconds <= 0:
                raise ValueError("delay must be positive or None")
        self._delay = seconds
        self._change()

    def get_memory_threshold(self):
        """The threshold of the traced memory in bytes, or None."""
        return self._threshold

    def set_memory_threshold(self, size):
        """Set the threshold of the traced memory in bytes, None: no threshold.

        A scheduled task is scheduled anew. ValueError if it is not positive.
        """
        if size is not None:
            if not isinstance(size, _INTEGERS):
                raise TypeError("size must be an int or None, not %s" % _type_name(size))
            if size <= 0:
                raise ValueError("size must be greater than zero or None")
        self._threshold = size
        self._change()

    def _change(self):
        _core.task_change(self, self._delay or 0, self._threshold or 0)

    def schedule(self, repeat=None):
        """Schedule the task repeat times, None: until it is cancelled.

        A scheduled task is scheduled anew. An exception in the call cancels it.
        ValueError if repeat is not positive, or the task has neither a delay nor
        a threshold; RuntimeError if tracing is off.
        """
        if repeat is not None:
            if not isinstance(repeat, _INTEGERS):
                raise TypeError("repeat must be an int or None, not %s" % _type_name(repeat))
            if repeat <= 0:
                raise ValueError("repeat must be positive or None")
        if not _core.is_enabled():
            raise RuntimeError("the pytracemalloc module must be enabled to schedule a task")
        if self._delay is None and self._threshold is None:
            raise ValueError("delay and memory_threshold are None")
        _core.task_schedule(self, self._delay or 0, self._threshold or 0, repeat or 0)


class DisplayTopTask(Task):
    """DisplayTopTask(count=10, group_by="line", cumulative=False, file=None, callback=None)

    Displays the top of the allocated blocks when it is called. Change the
    attribute display_top, a DisplayTop, to customize the display. file None is
    sys.stdout at that time.
    """

    def __init__(self, count=10, group_by="line", cumulative=False, file=None, callback=None):
        Task.__init__(self, self.display)
        self.display_top = DisplayTop()
        self.count = count
        self.group_by = group_by
        self.cumulative = cumulative
        self.file = file
        self.callback = callback

    def display(self):
        """Take a snapshot, display its top, and return it."""
        return self.display_top.display(self.count, self.group_by, self.cumulative, self.file,
                                        self.callback)


class TakeSnapshotTask(Task):
    """TakeSnapshotTask(filename_template="tracemalloc-$counter.pickle", traces=False, metrics=True,
    callback=None)

    Takes a snapshot and writes it into a file when it is called. In the template
    $pid, $timestamp and $counter (four digits, from 1) are replaced.
    """

    def __init__(self, filename_template="tracemalloc-$counter.pickle", traces=False, metrics=True,
                 callback=None):
        Task.__init__(self, self.take_snapshot)
        self.filename_template = filename_template
        self.traces = traces
        self.metrics = metrics
        self.callback = callback
        self.counter = 1

    def take_snapshot(self):
        """Take a snapshot and write it: (snapshot, filename). The callback comes before both."""
        snapshot = Snapshot.create(traces=self.traces, metrics=self.metrics)
        if self.callback is not None:
            self.callback(snapshot)
        filename = self.filename_template
        filename = filename.replace("$pid", str(snapshot.pid))
        filename = filename.replace("$timestamp",
                                    _format_timestamp(snapshot.timestamp).replace(" ", "-"))
        filename = filename.replace("$counter", "%04i" % self.counter)
        self.counter += 1
        snapshot.write(filename)
        return snapshot, filename


# ---- the beginning and the end ----

def _session_end():
    """Called when an attached tracer leaves: nothing of it may be called at exit."""
    if hasattr(atexit, "unregister"):
        atexit.unregister(_core.at_exit)


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
