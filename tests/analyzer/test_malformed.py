# SPDX-License-Identifier: MIT
"""Whatever is given as a snapshot: one line that names it, status 1, nothing else."""
import json
import os
import pickle
import random
import resource
import socket
import struct
import subprocess
import sys
import types

import pytest

from conftest import ANALYZE, Workshop

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from tms_reader import NONE, crc32c  # noqa: E402


def refuse(shop, name, *words):
    for command in (["top"], ["diff", "new.tms"], ["summary"], ["-a"], ["convert", "--to", "json"]):
        result = shop.run(*command, name)
        assert result.status == 1, (command, result.status)
        errors = [line for line in result.err.splitlines() if line.startswith("ERROR: ")]
        assert len(errors) == 1 and errors[0].startswith("ERROR: Failed to load %s: " % name)
        assert len(result.err.splitlines()) <= 2
        for word in words:
            assert word in errors[0]


def test_missing(pair):
    refuse(pair, "missing.tms", "No such file")


def test_empty(pair):
    pair.write("empty.tms", b"")
    refuse(pair, "empty.tms", "empty")


def test_directory(pair):
    os.mkdir(os.path.join(pair.path, "folder.tms"))
    refuse(pair, "folder.tms", "directory")


def test_fifo_and_socket_do_not_block(pair):
    os.mkfifo(os.path.join(pair.path, "fifo.tms"))
    refuse(pair, "fifo.tms", "not a regular file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.join(pair.path, "sock.tms"))
        refuse(pair, "sock.tms", "not a regular file")


def test_device(pair):
    assert pair.run("top", "/dev/zero").status == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(pair):
    os.chmod(os.path.join(pair.path, "new.tms"), 0)
    assert pair.run("top", "new.tms").status == 1


@pytest.mark.parametrize("data", [b"hello, world", b"\x7fELF" + bytes(100), b"\x00" * 64,
                                  b"PK\x03\x04" + bytes(60), b"c", b"\x80"])
def test_foreign(pair, data):
    pair.write("foreign", data)
    refuse(pair, "foreign")


def test_newer_version(pair):
    data = bytearray(pair.read("new.tms"))
    data[8] = 200
    pair.write("newer.tms", bytes(data))
    refuse(pair, "newer.tms")


def test_truncated_everywhere(pair):
    whole = pair.read("new.tms")
    for size in range(1, len(whole), 3):
        pair.write("cut.tms", whole[:size])
        result = pair.run("top", "cut.tms")
        assert result.status == 1, size
        assert result.err.startswith("ERROR: Failed to load cut.tms: ")


def test_every_flipped_bit_is_found(pair):
    whole = pair.read("new.tms")
    for at in range(len(whole)):
        if 28 <= at < 32:
            continue  # The header's reserved field, which readers ignore.
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        pair.write("flip.tms", bytes(data))
        result = pair.run("verify" if at % 2 else "top", "flip.tms")
        assert result.status == 1, at


def test_appended(pair):
    pair.write("long.tms", pair.read("new.tms") + b"more")
    refuse(pair, "long.tms")


def test_sizes_near_the_end_of_64_bits(shop):
    for size in (2 ** 64 - 1, 2 ** 63, 2 ** 63 - 1):
        shop.make("huge.tms", "fact pid 1\ntrace 0x10 %d 2 0 - 0 a.py:1:f\n"
                              "trace 0x20 %d 2 0 - 0 a.py:1:f\n" % (size, size))
        result = shop.run("top", "huge.tms")
        assert result.status == 1 and len(result.err.splitlines()) == 1
    shop.make("most.tms", "fact pid 1\nfact traceback_limit 9\n"
                          "trace 0x10 %d 2 0 - 0 a.py:1:f;a.py:1:f;a.py:1:f\n" % (2 ** 63 - 1))
    for args in (["-a"], ["-c"], ["-g", "size-class"], ["-g", "traceback"], []):
        assert shop.run("top", *args, "most.tms").status == 0


# --- sections that contradict each other, under checksums that are right ---

STRINGS, SITES, NODES, TRACES, END = 2, 3, 4, 5, NONE


def rewrite(data, kind, change):
    """The file with each payload of that kind changed, and its checksum put right."""
    out, at = bytearray(data[:32]), 32
    while at < len(data):
        type_, _, n_bytes = struct.unpack_from("<IIQ", data, at)
        payload = bytearray(data[at + 16:at + 16 + n_bytes])
        if type_ == kind:
            change(payload)
        head = struct.pack("<I", type_)
        out += head + struct.pack("<IQ", crc32c(head + bytes(payload)), len(payload)) + payload
        out += bytes(-len(out) % 8)
        at += 16 + (n_bytes + 7) // 8 * 8
    return bytes(out)


def put(layout, offset, value):
    def change(payload):
        struct.pack_into(layout, payload, offset if offset >= 0 else len(payload) + offset, value)
    return change


@pytest.mark.parametrize("kind, change", [
    (STRINGS, put("<I", 0, 2 ** 31)),       # more strings than there are bytes
    (STRINGS, put("<I", 4, 2 ** 32 - 1)),   # one that ends beyond the section
    (SITES, put("<I", 0, 4000)),            # a file name that is no string
    (NODES, put("<I", 8, 7)),               # a parent that comes later
    (NODES, put("<I", 12, 999)),            # a site that there is not
    (TRACES, put("<I", 0, 2 ** 32 - 1)),    # more rows than there are
    (TRACES, put("<I", 20, 2 ** 32 - 1)),   # a column longer than anything
    (TRACES, lambda payload: payload.clear()),
    (END, lambda payload: payload.clear()),
    (END, put("<Q", 0, 2 ** 64 - 1)),       # totals that are not those of the traces
    (NODES, lambda payload: payload.pop()),  # a length that is no multiple
], ids=lambda value: str(value) if isinstance(value, int) else "")
def test_contradictions(pair, kind, change):
    pair.write("lies.tms", rewrite(pair.read("new.tms"), kind, change))
    assert pair.read("lies.tms") != pair.read("new.tms")
    refuse(pair, "lies.tms", "(at byte ")
    assert limited(pair, "verify", "lies.tms").returncode == 1


def test_addresses_beyond_64_bits(pair):
    pair.write("lies.tms", rewrite(pair.read("new.tms"), TRACES, put("<Q", 8, 2 ** 64 - 1)))
    for args in (["verify"], ["-a"], ["-t"], ["convert", "-o", "x.tms"]):
        result = pair.run(*args, "lies.tms")
        assert result.status == 1 and "(at byte " in result.err.splitlines()[-1]


def test_rewriting_alone_changes_nothing(pair):
    assert rewrite(pair.read("new.tms"), SITES, lambda payload: None) == pair.read("new.tms")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A block of one byte at each depth of a recursion of a million frames: 14 MB."""
    shop = Workshop(str(tmp_path_factory.mktemp("deep")))
    shop.make("deep.tms", "fact pid 1\nfact traceback_limit 1000000\nchain 1000000 a.py:1:f\n")
    return shop


@pytest.mark.parametrize("args", [
    ["top"], ["top", "-c"], ["top", "-g", "file"], ["summary", "-n", "1"], ["verify"],
    ["-X", "b.py"], ["-I", "a.py"], ["diff", "deep.tms"],
])
def test_a_million_frames(deep, args):
    result = deep.run(*args, "deep.tms")
    assert result.status == 0, result.err
    if args == ["top", "-c"]:
        # 1 + 2 + ... + a million occurrences.
        assert "count=500000500000" in result.out


@pytest.mark.parametrize("to", ["json", "csv", "speedscope", "dhat", "pprof", "collapsed", "pickle"])
def test_a_million_tracebacks_of_a_million_frames(deep, to):
    """A small file, and no memory would be enough for what it asks for."""
    result = limited(deep, "convert", "--to", to, "-o", "out", "deep.tms")
    assert result.returncode == 1
    assert b"have 500000500000 frames in all" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_one_traceback_of_a_million_frames_in_a_pickle(shop):
    frames = (("a.py", 1),) * 1000000
    with open(os.path.join(shop.path, "deep.pickle"), "wb") as file:
        file.write(pickle_of(frames))
    document = json.loads(shop.ok("top", "-c", "--json", "deep.pickle"))
    assert document["items"][0]["count"] == 1000000
    assert "size=7 B, count=1\n" in shop.ok("top", "-g", "file", "deep.pickle")


def pickle_of(frames):
    """What the standard library's Snapshot.dump writes of one block with such a traceback."""
    module = types.ModuleType("tracemalloc")
    module.Snapshot = type("Snapshot", (), {"__module__": "tracemalloc"})
    module._Traces = type("_Traces", (), {"__module__": "tracemalloc"})
    snapshot, traces = module.Snapshot(), module._Traces()
    traces._traces = [(0, 7, frames, len(frames))]
    snapshot.traces, snapshot.traceback_limit = traces, len(frames)
    before = sys.modules.get("tracemalloc")
    sys.modules["tracemalloc"] = module
    try:
        return pickle.dumps(snapshot, pickle.HIGHEST_PROTOCOL)
    finally:
        if before is None:
            del sys.modules["tracemalloc"]
        else:
            sys.modules["tracemalloc"] = before


def limited(shop, *args):
    """Runs with 512 MiB of address space: an absurd allocation fails."""
    limit = 512 * 1024 * 1024
    return subprocess.run([ANALYZE] + list(args), cwd=shop.path, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS,
                                                                (limit, limit)))


@pytest.mark.skipif("asan" in ANALYZE, reason="AddressSanitizer reserves terabytes")
def test_random_damage_never_crashes(pair):
    """Flips bytes, checksums unrepaired: fuzz/tms does better, this sees the whole program."""
    whole = pair.read("new.tms")
    rng = random.Random(1)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        pair.write("random.tms", bytes(data))
        result = limited(pair, "top", "-g", rng.choice(["line", "address", "traceback", "age"]),
                         "random.tms")
        assert result.returncode in (0, 1), result.stderr
