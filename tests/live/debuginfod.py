# SPDX-License-Identifier: MIT
"""An interpreter without its debug information, and a debuginfod server that has it."""
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from victim import wait_until


def separate(library, stripped, debug):
    """Splits a library in two; its build-id, or None where there is nothing to split off."""
    notes = subprocess.run(["readelf", "-nS", "--wide", library], stdout=subprocess.PIPE,
                           universal_newlines=True).stdout
    if " .debug_info" not in notes or "Build ID: " not in notes:
        return None
    subprocess.check_call(["objcopy", "--only-keep-debug", library, debug])
    subprocess.check_call(["objcopy", "--strip-debug", "--remove-section=.gnu_debuglink", library,
                           stripped])
    return notes.split("Build ID: ")[1].split()[0]


class Server:
    """debuginfod on a folder, for this machine alone."""

    def __init__(self, folder, scratch):
        if shutil.which("debuginfod") is None:
            pytest.skip("debuginfod is not installed")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % port
        self._log = os.path.join(str(scratch), "debuginfod.log")
        env = {key: value for key, value in os.environ.items() if key != "DEBUGINFOD_URLS"}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["debuginfod", "-F", "-d", os.path.join(str(scratch), "index.sqlite"), "-p",
                 str(port), str(folder)],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def has(self, build_id):
        with open(self._log, errors="replace") as log:
            assert self._process.poll() is None, log.read()
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    "%s/buildid/%s/debuginfo" % (self.url, build_id), timeout=10) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait_for(self, build_id):
        wait_until(lambda: self.has(build_id), "debuginfod to find the file")

    def end(self):
        self._process.terminate()
        self._process.wait(60)
