# SPDX-License-Identifier: MIT
"""The way of a core through systemd: systemd-coredump takes it from the kernel, journald knows of
it, `coredumpctl dump` hands it out. In a mount namespace with directories of its own, so that the
machine's journal and its handler of cores stay as they are. scripts/test unpacks the packages
without installing them, because that would make systemd-coredump the machine's handler."""
import os
import re
import signal
import subprocess
import time

import pytest

from tools import BIN_DIR

PLACES = ("usr/lib/systemd", "lib/systemd", "usr/bin", "bin")
# What the kernel makes of the names in core_pattern, core(5).
KERNEL_WORDS = {"%P": "{pid}", "%u": "0", "%g": "0", "%s": str(int(signal.SIGABRT)), "%t": "{time}",
                "%c": str(2 ** 64 - 1), "%h": "tm-test", "%d": "1"}
RUN = r"""
set -e
pid=$1 core=$2 coredump=$3 journald=$4 activate=$5 ctl=$6 out=$7
shift 7
for folder in /run /var/log /var/lib; do mount -t tmpfs tm-test $folder; done
mkdir -p /run/systemd/journal /var/log/journal /var/lib/systemd/coredump
"$journald" & journald_pid=$!
"$activate" --seqpacket --accept -l /run/systemd/coredump "$coredump" & activate_pid=$!
trap 'kill $journald_pid $activate_pid; wait' EXIT
until [ -S /run/systemd/journal/socket ] && [ -S /run/systemd/coredump ]; do sleep 0.1; done
"$coredump" "$@" < "$core"
for i in $(seq 100); do
    if "$ctl" --no-pager info "$pid" 2>/dev/null | grep -q "Storage:.*(present\|Storage:.*truncated"
    then break; fi
    sleep 0.1
done
"$ctl" --no-pager info "$pid" || true
"$ctl" --no-pager dump "$pid" --output="$out"
"""


class Systemd:
    """Its programs, below TM_SYSTEMD_ROOT or those of the machine."""

    def __init__(self):
        build = os.path.join(BIN_DIR, "..", "systemd")
        self.root = os.environ.get("TM_SYSTEMD_ROOT") or (build if os.path.isdir(build) else "/")

    def find(self, name):
        for place in PLACES:
            path = os.path.join(self.root, place, name)
            if os.access(path, os.X_OK):
                return os.path.abspath(path)
        pytest.skip("%s is not installed" % name)

    def arguments(self, pid):
        """The words behind the program's name in its core_pattern; the pidfd at the end of newer
        ones may be missing."""
        with open(os.path.join(self.root, "usr/lib/sysctl.d/50-coredump.conf")) as file:
            pattern = re.search(r"^kernel.core_pattern=\|\S+ (.*)$", file.read(), re.M).group(1)
        return [KERNEL_WORDS.get(word, word).format(pid=pid, time=int(time.time()))
                for word in pattern.split() if word in KERNEL_WORDS or "%" not in word]

    def environment(self):
        if self.root == "/":
            return dict(os.environ)
        folders = [os.path.join(self.root, "usr/lib", name, "systemd")
                   for name in os.listdir(os.path.join(self.root, "usr/lib"))]
        return dict(os.environ, LD_LIBRARY_PATH=":".join(filter(os.path.isdir, folders)))

    def dump(self, pid, core, out):
        """Has the core of a process that still exists taken, and dumped to `out`."""
        programs = [self.find(name) for name in ("systemd-coredump", "systemd-journald",
                                                 "systemd-socket-activate", "coredumpctl")]
        if not os.path.exists("/etc/machine-id") or os.path.getsize("/etc/machine-id") == 0:
            pytest.skip("journald needs /etc/machine-id")
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", RUN, "sh", str(pid),
             str(core)] + programs + [str(out)] + self.arguments(pid), env=self.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240)
        return done.stdout.decode(errors="replace")
