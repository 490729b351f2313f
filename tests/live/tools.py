# SPDX-License-Identifier: MIT
"""Runs tm-attach and tm-analyze as a user would and reads what they say."""
import collections
import json
import os
import shutil
import subprocess

BIN_DIR = os.environ.get("TM_BIN_DIR") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "bin")

NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups",
             "--inh-caps=-all"]

HERE = os.path.dirname(os.path.abspath(__file__))

Result = collections.namedtuple("Result", "status out err")


def build_library(folder, source):
    """The path of a shared library of one of the C files here; skips where there is no gcc."""
    import pytest  # here, since what is no test uses this module, too
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    path = folder / ("libtm-%s-test.so" % source.split("_")[0])
    subprocess.run(["gcc", "-O2", "-g", "-Wall", "-Werror", "-shared", "-fPIC",
                    "-fvisibility=hidden", "-o", str(path), os.path.join(HERE, source), "-pthread"],
                   check=True)
    return path


def run_tool(name, *args, **options):
    """cwd: folder. prefix: words before the command. folder: where the tools are, if not in
    BIN_DIR. Returns a Result; its text is decoded."""
    folder = os.path.abspath(options.get("folder", BIN_DIR))
    command = list(options.get("prefix", ())) + [os.path.join(folder, name)]
    done = subprocess.run(command + [str(arg) for arg in args], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          cwd=str(options["cwd"]) if "cwd" in options else None,
                          timeout=options.get("timeout", 120))
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_as_nobody(folder, name, *args, **options):
    """The same as a user without any right; folder: see the fixture public_tools."""
    options.setdefault("cwd", "/tmp")
    return run_tool(name, *args, prefix=AS_NOBODY, folder=folder, **options)


def tm_attach(*args, **options):
    return run_tool("tm-attach", *args, **options)


def tm_analyze(*args, **options):
    return run_tool("tm-analyze", *args, **options)


def must(result):
    """The result, which must be a success without a word of complaint."""
    assert result.status == 0, result
    assert result.err == "", result
    return result


def snapshot(victim, cwd):
    """A snapshot now; its path, which --snapshot printed."""
    path = os.path.join(str(cwd), must(tm_attach("--snapshot", victim.pid, cwd=cwd)).out.strip())
    assert os.path.isfile(path), path
    return path


def analyze_json(*args, **options):
    return json.loads(must(tm_analyze(*(args + ("--json",)), **options)).out)
