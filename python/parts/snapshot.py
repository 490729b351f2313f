# SPDX-License-Identifier: MIT
# Snapshots and their metrics: the dictionaries are made when they are asked for.

import datetime
import gc
import time


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


def _to_ns(timestamp):
    """Nanoseconds since the epoch of a datetime in local time."""
    offset = getattr(timestamp, "utcoffset", lambda: None)()
    if offset is not None:
        timestamp = (timestamp - offset).replace(tzinfo=None)
        seconds = int((timestamp - datetime.datetime(1970, 1, 1)).total_seconds())
    else:
        seconds = int(time.mktime(timestamp.timetuple()))
    nanoseconds = seconds * 10 ** 9 + timestamp.microsecond * 1000
    if not 0 <= nanoseconds < 2 ** 64:
        raise OverflowError("the timestamp must be between 1970 and 2554")
    return nanoseconds


def _from_ns(timestamp_ns):
    seconds, rest = divmod(timestamp_ns, 10 ** 9)
    return datetime.datetime.fromtimestamp(seconds).replace(microsecond=rest // 1000)


def _path(filename):
    if hasattr(os, "fspath"):
        filename = os.fspath(filename)
    return os.fsdecode(filename) if str is not bytes else filename


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

    traces = _made_on_first_use(
        "_traces", lambda self: _core.image_traces(self._image),
        "{address: (size, traceback)} or None; made when it is first asked for.")
    stats = _made_on_first_use(
        "_stats", lambda self: _core.image_stats(self._image),
        "{filename: {lineno: (size, count)}} or None; made when it is first asked for.")

    def __reduce__(self):
        return (type(self), (self.timestamp, self.pid, self.traces, self.stats, self.metrics,
                             self.traceback_limit))

    def _build(self, traces, stats):
        """An image of the dictionaries; who, when and how deep is said where it is written."""
        return _core.image_build(
            0, 0, self.traceback_limit,
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
            if get_traceback_limit is not _originals["get_traceback_limit"]:
                self.traceback_limit = get_traceback_limit()
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
