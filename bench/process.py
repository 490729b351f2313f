# SPDX-License-Identifier: MIT
"""One measured process: target.py under a Python, in one of the configurations."""
import json
import os
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.environ.get("TM_BIN_DIR") or os.path.join(HERE, "..", "build", "bin")
# No snapshot by itself: what is timed is the tracing.
NO_SNAPSHOTS = ["--delay", "86400", "--memory-threshold", "1000G"]


def libunwind_path():
    """bench/libunwind.c, built where libunwind was found, or None."""
    path = os.path.join(BIN, "..", "lib", "libtm-bench-libunwind.so")
    return os.path.abspath(path) if os.path.exists(path) else None


class Unavailable(Exception):
    """This Python cannot run this workload; the text says why."""


def tm(name, *args, **options):
    done = subprocess.run([os.path.join(BIN, name)] + [str(arg) for arg in args],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=600, **options)
    if done.returncode != 0:
        raise RuntimeError("%s %s: status %d: %s" % (name, " ".join(map(str, args)),
                                                     done.returncode, done.stderr.strip()))
    return done.stdout


class Process:
    """A context: starts the target, traces it as `config` says, and ends it."""

    def __init__(self, python, workload, config, folder):
        self.config, self.folder, self.attached = config, folder, False
        self.workload = workload
        command = [python]
        if config.tool == "tracemalloc":
            command += ["-X", "tracemalloc=%d" % config.frames]
        env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", PYTHONHASHSEED="0")
        if config.tool == "libunwind":
            env["TM_BENCH_UNWIND"] = libunwind_path()
        env.pop("PYTHONPATH", None)
        if workload == "django_templates":
            # Debian's packages of pure Python serve every version that the package supports.
            env["PYTHONPATH"] = "/usr/lib/python3/dist-packages"
        self.popen = subprocess.Popen(
            command + [os.path.join(HERE, "target.py"), workload], env=env, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)

    def __enter__(self):
        try:
            first = self.read()
            if "unavailable" in first:
                raise Unavailable(first["unavailable"])
            if self.config.tool in ("tm", "detached"):
                self.attach()
            if self.config.tool == "detached":
                self.detach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            pipe.close()

    @property
    def pid(self):
        return self.popen.pid

    def read(self):
        line = self.popen.stdout.readline()
        if not line:
            text = self.popen.stderr.read().strip().splitlines()
            reason = text[-1] if text else "it said nothing"
            raise Unavailable("the target ended with status %d: %s" % (self.popen.wait(), reason))
        return json.loads(line)

    def ask(self, *words):
        self.popen.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.popen.stdin.flush()
        answer = self.read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def attach(self):
        options = ["--traceback-limit", self.config.frames] + NO_SNAPSHOTS
        if self.config.sample:
            options += ["--sample", self.config.sample]
        if self.config.native:
            options.append("--native=%d" % self.config.native)
        tm("tm-attach", *(options + [self.pid]), cwd=self.folder)
        self.attached = True

    def detach(self):
        tm("tm-attach", "--detach", self.pid)
        self.attached = False

    def snapshot(self):
        """The path of a snapshot taken now."""
        out = tm("tm-attach", "--snapshot", self.pid, cwd=self.folder)
        return os.path.join(self.folder, out.strip().splitlines()[-1])

    def status(self):
        """--status as a dict of its `key: value` lines."""
        out = tm("tm-attach", "--status", self.pid)
        return dict(re.findall(r"^\s*([^:\n]+?)\s*[:=]\s*(.*?)\s*$", out, re.M))
