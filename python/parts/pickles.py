# SPDX-License-Identifier: MIT
# Snapshots in pickles, the standard library's too: nothing in them is executed.

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
