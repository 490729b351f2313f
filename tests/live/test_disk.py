# SPDX-License-Identifier: MIT
"""A disk that is full, or that nobody may write: the program goes on, the error is told by
--snapshot on standard error and kept in --status, and no half file stays."""
import os
import resource
import subprocess

import pytest

from tools import must, run_tool, tm_attach
from victim import wait_until

pytestmark = pytest.mark.pythons(low=(3, 6), high=(3, 13))


class PrivateDisk:
    """A small tmpfs in a mount namespace of its own, held by a process. tm-attach runs inside."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             'mount -t tmpfs -o size=128k tm-test "$1" && echo mounted && exec cat',
             "sh", self.folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"mounted\n"
        self.inside = "/proc/%d/root%s" % (self.holder.pid, self.folder)

    def enter(self):
        return ["nsenter", "--target=%d" % self.holder.pid, "--mount", "--wd=" + self.inside]

    def attach(self, *args):
        return run_tool("tm-attach", *args, prefix=self.enter())

    def fill(self):
        with open(os.path.join(self.inside, "filler"), "wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * 4096)

    def empty(self):
        os.remove(os.path.join(self.inside, "filler"))

    def remount(self, options):
        subprocess.check_call(["nsenter", "--target=%d" % self.holder.pid, "--mount", "mount", "-o",
                               "remount," + options, self.folder])

    def files(self):
        return sorted(os.listdir(self.inside))

    def end(self):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


@pytest.fixture
def disk(tmp_path, can_mount):
    folder = tmp_path / "disk"
    folder.mkdir()
    result = PrivateDisk(folder)
    yield result
    result.end()


def assert_fails(result, reason):
    assert result.status != 0, result
    assert result.out == "" and result.err.count("\n") == 1, result
    assert reason in result.err, result


def assert_status_says(victim, reason):
    status = must(tm_attach("--status", victim.pid))
    assert reason in status.out, status


def test_full_disk(python, start_victim, disk):
    victim = start_victim(python, "threads.py")
    must(disk.attach(victim.pid))
    disk.fill()
    assert_fails(disk.attach("--snapshot", victim.pid), os.strerror(28))
    assert disk.files() == ["filler"]
    assert_status_says(victim, os.strerror(28))
    victim.assert_advances()
    # With room again the next one succeeds.
    disk.empty()
    disk.remount("size=64m")
    must(disk.attach("--snapshot", victim.pid))
    assert [name for name in disk.files() if not name.endswith(".tms")] == []
    assert len(disk.files()) == 1
    must(tm_attach("--detach", victim.pid))
    victim.assert_advances()


def test_full_disk_on_a_timer(python, start_victim, disk):
    """Nobody waits for the snapshot of a task: the error is in --status."""
    victim = start_victim(python, "threads.py")
    disk.fill()
    must(disk.attach("--delay", 1, victim.pid))
    wait_until(lambda: os.strerror(28) in must(tm_attach("--status", victim.pid)).out,
               "the error in --status")
    assert disk.files() == ["filler"]
    victim.assert_advances()
    must(tm_attach("--detach", victim.pid))
    assert disk.files() == ["filler"]


def test_read_only_disk(python, start_victim, disk):
    victim = start_victim(python, "reads.py")
    must(disk.attach(victim.pid))
    disk.remount("ro")
    assert_fails(disk.attach("--snapshot", victim.pid), os.strerror(30))
    assert disk.files() == []
    assert_status_says(victim, os.strerror(30))
    victim.assert_advances()
    must(tm_attach("--detach", victim.pid))


def test_file_size_limit(python, start_victim, tmp_path):
    """The same without a mount: the victim may not write more than 512 bytes to a file."""
    victim = start_victim(python, "threads.py", limits={resource.RLIMIT_FSIZE: 512})
    must(tm_attach(victim.pid, cwd=tmp_path))
    before = sorted(os.listdir(str(tmp_path)))
    assert_fails(tm_attach("--snapshot", victim.pid, cwd=tmp_path), os.strerror(27))
    assert sorted(os.listdir(str(tmp_path))) == before
    assert_status_says(victim, os.strerror(27))
    victim.assert_advances()
    must(tm_attach("--detach", victim.pid))


def test_unwritable_directory(python, start_victim, tmp_path):
    """The directory where tm-attach is called cannot be written: it says so at once or at the first
    snapshot; either way nothing is left there and the program goes on."""
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.getuid() == 0:
        # Root may write everywhere but in a folder of /proc.
        cwd = "/proc/self"
    else:
        folder.chmod(0o555)
        cwd = str(folder)
    victim = start_victim(python, "reads.py")
    attached = tm_attach(victim.pid, cwd=cwd)
    if attached.status == 0:
        result = tm_attach("--snapshot", victim.pid, cwd=cwd)
        assert result.status != 0 and result.err.count("\n") == 1, result
        must(tm_attach("--status", victim.pid))
        must(tm_attach("--detach", victim.pid))
    else:
        assert attached.err.count("\n") == 1, attached
    assert os.listdir(str(folder)) == []
    victim.assert_advances()
