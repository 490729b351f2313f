# SPDX-License-Identifier: MIT
"""Whatever is given as a snapshot: one line that names it, status 1, nothing else."""
import os
import random
import resource
import socket
import subprocess

import pytest

from conftest import ANALYZE


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
