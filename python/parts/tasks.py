# SPDX-License-Identifier: MIT
# Calls when the traced memory changed, or after a time.

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


def _capped(number):
    """A number for C, None as 0; more than 64 bits hold is for ever anyway."""
    return min(number or 0, 2 ** 63 - 1)


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
        _core.task_change(self, _capped(self._delay), _capped(self._threshold))

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
        _core.task_schedule(self, _capped(self._delay), _capped(self._threshold), _capped(repeat))


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


def _as_made():
    """(class, ((namespace, name, value), ...)): what a TakeSnapshotTask works with.

    Where all of it is in place and there is no callback, C makes the call by itself
    and runs no Python; a program that has replaced something gets it called.
    """
    space = globals()
    names = ["Metric", "Snapshot", "get_arena_size", "get_process_memory", "get_stats",
             "get_traceback_limit", "get_traced_memory", "get_tracemalloc_memory", "get_traces",
             "is_enabled"]
    used = [(space, name, space[name]) for name in names]
    for cls in (Snapshot, Task, TakeSnapshotTask):
        used += [(vars(cls), name, value) for name, value in vars(cls).items()]
    own = vars(TakeSnapshotTask)
    used += [(own, name, None) for name in vars(Task) if name not in own]
    return TakeSnapshotTask, tuple(used)


TakeSnapshotTask._as_made = _as_made()
