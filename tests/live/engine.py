# SPDX-License-Identifier: MIT
"""The tracing engine inside this Python, driven by ctypes (3.6 on), without an agent.

Programs that a live test starts import it; see engine_program.py there. The
library is loaded twice: `lib` keeps the GIL during a call, `free` gives it up."""
import ctypes
import os

import tms

LIB_DIR = os.environ["TM_LIB_DIR"]


class Options(ctypes.Structure):
    _fields_ = [("traceback_limit", ctypes.c_uint32), ("sample_bytes", ctypes.c_uint64),
                ("native_depth", ctypes.c_uint32)]


class Totals(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "traced_bytes", "traced_blocks", "peak_bytes", "dropped", "own_bytes", "own_free_bytes")]


class SnapshotOptions(ctypes.Structure):
    _fields_ = [("with_traces", ctypes.c_int), ("counter", ctypes.c_uint32),
                ("reason", ctypes.c_char_p)]


class SnapshotResult(ctypes.Structure):
    _fields_ = [("traces", ctypes.c_uint64), ("traced_bytes", ctypes.c_uint64),
                ("file_bytes", ctypes.c_uint64), ("pause_ns", ctypes.c_uint64),
                ("message", ctypes.c_char * 256)]


_path = os.path.join(LIB_DIR, "libtm-engine-test.so")
lib = ctypes.PyDLL(_path)
free = ctypes.CDLL(_path)
lib.tm_tracer_totals.restype = Totals
_message = ctypes.create_string_buffer(512)


class EngineError(Exception):
    pass


def setup():
    if lib.tm_tracer_setup(None, _message, ctypes.c_size_t(512)) != 0:
        raise EngineError(_message.value.decode())


def enable(limit=1, sample_bytes=0):
    setup()
    options = Options(limit, sample_bytes)
    if lib.tm_tracer_enable(ctypes.byref(options), _message, ctypes.c_size_t(512)) != 0:
        raise EngineError(_message.value.decode())


def disable():
    """0: the allocators are the originals; 1: our hooks stay, doing nothing."""
    return lib.tm_tracer_disable()


def totals():
    return lib.tm_tracer_totals()


class FilterSpec(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("n_bytes", ctypes.c_size_t),
                ("line", ctypes.c_int32), ("flags", ctypes.c_uint32)]


INCLUDE, TRACEBACK = 1, 2


def set_filters(*filters):
    """Each a (flags, pattern, line)."""
    specs = (FilterSpec * max(len(filters), 1))()
    for i, (flags, pattern, line) in enumerate(filters):
        data = pattern.encode()
        specs[i] = FilterSpec(data, len(data), line, flags)
    return lib.tm_tracer_set_filters(specs, ctypes.c_size_t(len(filters)))


def trim():
    free.tm_tracer_trim()
    free.tm_tracer_measure()


def snapshot(path, with_traces=True, counter=1):
    result = SnapshotResult()
    options = SnapshotOptions(int(with_traces), counter, b"test")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        status = free.tm_snapshot_write(fd, ctypes.byref(options), ctypes.byref(result))
    finally:
        os.close(fd)
    if status != 0:
        raise EngineError("%d: %s" % (status, result.message.decode()))
    return result


def check_tracebacks(path, key, expected, limits):
    """Each block of `expected`, {key of a trace: [(file, function, line)]}, is in a snapshot with these
    frames, as far as one of the limits goes. Returns how many there are."""
    snapshot(path)
    file = tms.File(path)
    file.check()
    found, wrong = 0, []
    for trace in file.traces:
        frames = expected.get(key(trace))
        if frames is None or trace.domain != 2:
            continue
        found += 1
        ours = [(f.file, f.function, f.line) for f in file.frames(trace.node)]
        if ours not in [frames[:limit] for limit in limits]:
            wrong.append((ours, frames))
    for ours, frames in wrong[:3]:
        print("wrong", len(ours), len(frames))
        for pair in zip(ours, frames):
            print("  %-5s %s %s" % ((pair[0] == pair[1],) + pair))
    assert not wrong, len(wrong)
    assert found == len(expected), (found, len(expected))
    return found
