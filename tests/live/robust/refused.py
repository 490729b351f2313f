# SPDX-License-Identifier: MIT
"""What is refused, and why; users."""
import contextlib
import os
import resource
import shutil
import struct
import subprocess

from pythons import find_pythons
from robust.bench import (BIN, LIB, NOBODY, VICTIMS, Impossible, case, may_unshare, need_root,
                          run)
from victim import read_status, wait_until


def unused_pid():
    with open("/proc/sys/kernel/pid_max") as file:
        highest = int(file.read())
    return next(pid for pid in range(highest - 1, 1, -1) if not os.path.exists("/proc/%d" % pid))


@case("refused", "no such PID")
def no_process(b):
    return b.refused(unused_pid(), 10, "process")


@case("refused", "zombie")
def zombie(b):
    child = subprocess.Popen(["true"])
    wait_until(lambda: read_status(child.pid)["State"][0] == "Z", "the end")
    said = b.refused(child.pid, 11, "zombie")
    child.wait()
    return said


@case("refused", "a thread's TID")
def thread_id(b):
    victim = b.start("blocked.py", "event")
    tid = max(int(name) for name in os.listdir("/proc/%d/task" % victim.pid))
    return b.refused(tid, 12, victim.pid)


@case("refused", "tm-attach itself")
def itself(b):
    done = run(["sh", "-c", "exec %s $$" % os.path.join(BIN, "tm-attach")], cwd=b.folder)
    assert done.status == 13 and done.err.count("\n") == 1, done
    return "refused, status 13"


@case("refused", "a kernel thread")
def kernel_thread(b):
    with contextlib.suppress(OSError):
        if read_status(2)["Name"] == "kthreadd":
            return b.refused(2, 14, "kernel")
    raise Impossible("no kernel thread is seen here")


@case("refused", "not Python")
def not_python(b):
    program = b.native("sh", "-c", "echo ready; read x")
    return b.refused(program.pid, 16, "Python")


@case("refused", "32-bit")
def class32(b):
    # A whole program: for (;;) pause(), in the 32-bit ABI.
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0x8048054, 52, 0, 0, 52,
                       32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 4096)
    path = os.path.join(b.folder, "class32")
    with open(path, "wb") as file:
        file.write(head + segment + code)
    os.chmod(path, 0o755)
    try:
        process = subprocess.Popen([path])
    except OSError as error:
        raise Impossible("the kernel runs no 32-bit programs (%s)" % error.strerror)
    b.undo.append(process.kill)
    wait_until(lambda: read_status(process.pid)["Name"] == "class32", "the exec")
    said = b.refused(process.pid, 20, "32-bit")
    assert process.poll() is None
    return said


@case("refused", "static, without dlopen")
def static(b):
    source = os.path.join(b.folder, "static.c")
    with open(source, "w") as file:
        file.write('#include <stdio.h>\nint main(void) { puts("ready"); fflush(stdout); getchar(); }')
    program = b.native(b.compile(source, "-static"))
    return b.refused(program.pid, 22, "static")


def traced_by(name, command):
    @case("refused", "traced by %s (names its PID)" % name)
    def traced(b):
        b.need(command[0])
        victim = b.start("blocked.py", "event")
        tracer = subprocess.Popen([word.replace("PID", str(victim.pid)) for word in command],
                                  stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        b.undo.append(tracer.kill)
        wait_until(lambda: read_status(victim.pid)["TracerPid"] != "0", "the tracer")
        said = b.refused(victim.pid, 24, "traced by", read_status(victim.pid)["TracerPid"])
        tracer.terminate()
        tracer.wait()
        wait_until(lambda: read_status(victim.pid)["TracerPid"] == "0", "the tracer's end")
        victim.assert_advances()
        b.must_inject(victim.pid)
        return said + "; attached afterwards"


traced_by("strace", ["strace", "-qq", "-f", "-o", "/dev/null", "-p", "PID"])
traced_by("gdb", ["gdb", "-nx", "-q", "-ex", "continue", "-p", "PID"])


@case("refused", "attached already")
def attached_already(b):
    victim = b.start("blocked.py", "event")
    assert b.attach("--delay", 0, victim.pid).status == 0
    said = b.refused(victim.pid, 25, "already")
    assert b.attach("--detach", victim.pid).status == 0
    return said


def as_nobody(b):
    """Words that run a command as nobody, with the tools where nobody can reach them."""
    need_root()
    b.need("setpriv")
    return ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups",
            "--inh-caps=-all"]


def for_everybody(b):
    """A Python that nobody may run, and a copy of the tools; or Impossible."""
    folder = os.path.join(b.folder, "tools")
    for name in ("bin", "lib"):
        os.makedirs(os.path.join(folder, name))
    for name in ("bin/tm-attach", "lib/libtm-payload.so", "lib/libtm-victim-helper.so"):
        shutil.copy(os.path.join(BIN, "..", name), os.path.join(folder, name))
    shutil.copytree(VICTIMS, os.path.join(folder, "victims"))
    run(["chmod", "-R", "a+rX", folder])
    # The system's own first: a file that a user may run but not read makes a process non-dumpable.
    for python in sorted(find_pythons(), key=lambda p: not p.path.startswith("/usr/")):
        probe = run(as_nobody(b) + [python.path, "-c", "import ctypes"], cwd="/")
        if probe.status == 0 and (3, 6) <= python.version[:2] <= (3, 13):
            return folder, python
    raise Impossible("no Python here can be run by another user")


def start_as_nobody(b, kind, arg=0, limits=None):
    import victim as harness
    folder, b.python = for_everybody(b)
    old = harness.VICTIMS
    harness.VICTIMS = os.path.join(folder, "victims")
    try:
        return folder, b.start("hostile.py", kind, os.path.join(folder, "lib/libtm-victim-helper.so"),
                               arg, user=NOBODY, limits=limits)
    finally:
        harness.VICTIMS = old


@case("users", "another user's process, as root")
def as_root(b):
    _, victim = start_as_nobody(b, "busy-alone")
    b.must_inject(victim.pid)
    b.cycle(victim.pid)
    victim.assert_advances()
    return "attached"


@case("users", "as the process' own user")
def own_user(b):
    folder, victim = start_as_nobody(b, "busy-alone")
    out = os.path.join(b.folder, "out")
    os.mkdir(out)
    os.chown(out, NOBODY, NOBODY)
    tool = as_nobody(b) + [os.path.join(folder, "bin/tm-attach")]
    for args in (["--delay", "0", victim.pid], ["--snapshot", victim.pid], ["--detach", victim.pid]):
        result = run(tool + args, cwd=out)
        assert result.status == 0, result
    victim.assert_advances()
    assert os.listdir(out)
    return "attached"


@case("refused", "another user's process, not as root")
def other_user(b):
    folder, _ = for_everybody(b)
    victim = b.start("blocked.py", "event")
    result = run(as_nobody(b) + [os.path.join(folder, "bin/tm-attach"), victim.pid], cwd="/")
    assert result.status == 30 and "user" in result.err, result
    victim.assert_advances()
    return "refused, status 30"


@case("refused", "non-dumpable, not as root")
def non_dumpable(b):
    folder, victim = start_as_nobody(b, "non-dumpable-alone")
    result = run(as_nobody(b) + [os.path.join(folder, "bin/tm-attach"), victim.pid], cwd="/")
    assert result.status in (30, 32), result
    victim.assert_advances()
    return "refused, status %d" % result.status


def with_mounts(command):
    """Words that run a command behind mounts of its own."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", command + ' exec "$0" "$@"']


@case("refused", "hidden by /proc (hidepid), not as root")
def hidepid(b):
    folder, _ = for_everybody(b)
    may_unshare("--mount")
    victim = b.start("blocked.py", "event")
    result = run(with_mounts("mount -t proc -o hidepid=2 proc /proc || exit 99;") + as_nobody(b) +
                 [os.path.join(folder, "bin/tm-attach"), victim.pid], cwd="/")
    if result.status == 99:
        raise Impossible("hidepid cannot be mounted: " + result.err[:60])
    assert result.status == 30 and "hidepid" in result.err, result
    return "refused, status 30"


@case("refused", "no /proc where tm-attach runs")
def no_proc_here(b):
    need_root()
    may_unshare("--mount")
    victim = b.start("blocked.py", "event")
    return b.refused(victim.pid, 33, "/proc is not mounted",
                     prefix=with_mounts("mount -t tmpfs tm-test /proc;"))


@case("refused", "Yama")
def yama(b):
    path = "/proc/sys/kernel/yama/ptrace_scope"
    if not os.path.exists(path):
        raise Impossible("this kernel has no Yama")
    if open(path).read().strip() == "0" or os.getuid() == 0:
        raise Impossible("needs ptrace_scope above 0 and a user that is not root")
    victim = b.start("blocked.py", "event")
    return b.refused(victim.pid, 31, "ptrace_scope")


@case("refused", "PyPy")
def pypy(b):
    b.need("pypy3")
    program = b.native("pypy3", "-c", "print('ready', flush=True); input()")
    return b.refused(program.pid, 17, "PyPy")


@case("refused", "the budget of threads spent (RLIMIT_NPROC)")
def nproc(b):
    _, victim = start_as_nobody(b, "busy-alone", limits={resource.RLIMIT_NPROC: 1})
    maps = len(open("/proc/%d/maps" % victim.pid).readlines())
    said = b.refused(victim.pid, 52, "thread")
    victim.assert_advances()
    # glibc keeps the stack that it could not use.
    assert len(open("/proc/%d/maps" % victim.pid).readlines()) <= maps + 2
    return said


@case("refused", "the budget of memory spent (RLIMIT_AS)", True)
def address_space(b):
    victim = b.hostile("busy-alone")
    size = int(read_status(victim.pid)["VmSize"].split()[0]) * 1024
    statuses = set()
    for room in (0, 128 << 10, 1200 << 10, 2 << 20):
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
        result = b.attach("--delay", 0, victim.pid)
        assert result.status in (52, 53, 55, 66), (room, result)
        assert result.err.count("\n") == 1, result
        statuses.add(result.status)
        victim.assert_advances()
    resource.prlimit(victim.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 1, "the late thread's end")
    b.cycle(victim.pid)
    return "refused, status %s; attached afterwards" % " or ".join(str(s) for s in sorted(statuses))


@case("refused", "the budget of descriptors spent (RLIMIT_NOFILE)", True)
def descriptors(b):
    victim = b.hostile("nofile-alone", limits={resource.RLIMIT_NOFILE: 64})
    wait_until(lambda: len(os.listdir("/proc/%d/fd" % victim.pid)) == 64, "no descriptor to be left")
    result = b.attach("--delay", 0, victim.pid)
    assert result.status in (52, 66) and result.err.count("\n") == 1, result
    victim.assert_advances()
    return "refused, status %d" % result.status


@case("refused", "tm-attach's own limits (open files, size of files)")
def own_limits(b):
    victim = b.start("blocked.py", "event")
    for limit, words in (("-n 8", "ulimit -n"), ("-f 8", "too large")):
        said = b.refused(victim.pid, 52, words,
                         prefix=["sh", "-c", 'ulimit %s; exec "$0" "$@"' % limit])
        victim.assert_advances()
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 2, "the late thread's end")
    return said


@case("refused", "a corrupt payload, or one for another machine")
def bad_payload(b):
    victim = b.start("blocked.py", "event")
    good = open(os.path.join(LIB, "libtm-toy-payload.so"), "rb").read()
    texts = {"text": b"not a payload", "empty": b"", "machine": good[:18] + b"\xb7\0" + good[20:],
             "short": good[:len(good) // 2], "class": good[:4] + b"\1" + good[5:]}
    for name, data in texts.items():
        path = os.path.join(b.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        words = b.inject(victim.pid, "--payload", path)
        assert words["status"] in (40, 53) and words["message"], (name, words)
    victim.assert_advances()
    return "refused, status 40"


@case("refused", "two tm-attach at once: one wins", True)
def two_at_once(b):
    victim = b.start("blocked.py", "event")
    for _ in range(5):
        both = [subprocess.Popen([os.path.join(BIN, "tm-attach"), "--delay", "0", str(victim.pid)],
                                 cwd=b.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                for _ in range(2)]
        said = [process.communicate()[1].decode() for process in both]
        statuses = sorted(process.returncode for process in both)
        # One that comes when the other is through finds it attached, and gives new options.
        assert statuses[0] == 0 and statuses[1] in (0, 25, 26), (statuses, said)
        assert b.attach("--detach", victim.pid).status == 0
        victim.assert_advances()
    return "one attached, the other refused or handed its options over"
