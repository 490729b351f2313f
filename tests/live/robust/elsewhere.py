# SPDX-License-Identifier: MIT
"""Containers, upgrades, filters, other C libraries."""
import os
import re
import shutil
import signal
import struct

from pythons import find_pythons
from robust.bench import (BIN, HELPER, LIB, LIVE, VICTIMS, Impossible, beats_on, case, may_unshare,
                          need_root, run)
from victim import wait_until


@case("elsewhere", "unpatched Python 2.7 (its functions redirected)")
def unpatched(b):
    for python in find_pythons():
        if python.version[:2] == (2, 7):
            b.python = python
            victim = b.start("reads.py")
            b.cycle(victim.pid)
            victim.assert_advances()
            return "attached, detached"
    raise Impossible("no unpatched Python 2.7 is installed")


def child_in(b, unshare, setup, kind="busy-alone"):
    """A victim behind `unshare ARGS sh -c "SETUP; exec python..."`; its PID as we see it."""
    may_unshare(*unshare)
    page = os.path.join(b.folder, "page")
    with open(page, "wb") as file:
        file.write(b"\0" * 4096)
    script = os.path.join(VICTIMS, "hostile.py")
    process = b.native("unshare", *(list(unshare) + [
        "sh", "-c", setup + ' exec "$0" "$@"', b.python.path, script, kind, HELPER]),
        env=dict(os.environ, TM_VICTIM_PAGE=page, PYTHONDONTWRITEBYTECODE="1"))
    if "--fork" in unshare:
        kids = run(["pgrep", "-P", process.pid]).out.split()
        b.undo.append(lambda: os.kill(int(kids[0]), signal.SIGKILL))
        return int(kids[0]), page
    return process.pid, page


def beats_in(page):
    with open(page, "rb") as file:
        return struct.unpack("<Q", file.read(8))[0]


def elsewhere(name, unshare, setup):
    @case("elsewhere", name)
    def attach_there(b):
        need_root()
        pid, page = child_in(b, unshare, setup.replace("{folder}", b.folder))
        for _ in range(b.attaches):
            b.must_inject(pid)
        b.cycle(pid)
        before = beats_in(page)
        wait_until(lambda: beats_in(page) > before, "the heart")
        return "attached, the snapshot is where tm-attach was called"


PRIVATE = ["--mount", "--propagation", "private"]
elsewhere("payload not in the target's mount namespace", PRIVATE,
          "mount -t tmpfs tm-test %s;" % LIB)
elsewhere("noexec /tmp", PRIVATE, "mount -t tmpfs -o noexec tm-test /var/tmp; "
          "mount --bind /tmp /tmp; mount -o remount,bind,noexec /tmp;")
elsewhere("read-only root", PRIVATE, "mount --bind {folder} {folder}; mount -o remount,bind,ro /;")
elsewhere("another PID namespace", ["--pid", "--fork"], "")
elsewhere("another PID and mount namespace with its own /proc",
          ["--pid", "--fork", "--mount-proc"], "")
elsewhere("another user namespace", ["--user", "--map-root-user"], "")


@case("elsewhere", "no /proc in the target's mount namespace")
def without_proc(b):
    need_root()
    pid, page = child_in(b, PRIVATE, "mount -t tmpfs tm-test /proc;")
    said = b.refused(pid, 53, "sees no /proc", "mount -t proc")
    before = beats_in(page)
    wait_until(lambda: beats_in(page) > before, "the heart")
    return said


def refuses(b, kind, status, *words):
    victim = b.hostile(kind)
    said = b.refused(victim.pid, status, *words)
    victim.assert_advances()
    return said


@case("elsewhere", "a target in a chroot without /proc")
def chrooted(b):
    need_root()
    return refuses(b, "chroot-alone", 53, "sees no /proc", "mount -t proc")


@case("elsewhere", "libpython or the executable deleted by an upgrade", True)
def deleted(b):
    """The interpreter's own file is copied, run and removed."""
    real = os.path.realpath(b.python.path)
    prefix = run([b.python.path, "-c", "import sys; print(sys.base_prefix)"]).out.strip()
    copy = os.path.join(b.folder, "bin")
    os.mkdir(copy)
    shutil.copy(real, os.path.join(copy, "python"))
    libraries = re.findall(r"=> (\S*libpython\S*) ", run(["ldd", real]).out)
    for library in libraries:
        shutil.copy(library, copy)
    os.environ.update(LD_LIBRARY_PATH=copy, PYTHONHOME=prefix)
    old, b.python = b.python, type("Copy", (), {"path": os.path.join(copy, "python")})
    try:
        victim = b.hostile("busy-alone")
    finally:
        del os.environ["LD_LIBRARY_PATH"], os.environ["PYTHONHOME"]
        b.python = old
    shutil.rmtree(copy)
    return b.in_and_out(victim)


@case("elsewhere", "libpython loaded RTLD_LOCAL by a program", True)
def rtld_local(b):
    libraries = re.findall(r"=> (\S*libpython\S*) ", run(["ldd", b.python.path]).out)
    if not libraries:
        raise Impossible("this Python is static")
    prefix = run([b.python.path, "-c", "import sys; print(sys.base_prefix)"]).out.strip()
    program = b.native(os.path.join(BIN, "tm-victim-embeds"), libraries[0], prefix)
    for _ in range(b.attaches):
        b.must_inject(program.pid)
    b.cycle(program.pid)
    beats_on(program)
    return "attached"


@case("elsewhere", "a seccomp filter that forbids ptrace and ppoll", True)
def seccomp_ptrace(b):
    return b.in_and_out(b.hostile("seccomp-ptrace-alone"))


@case("elsewhere", "a seccomp filter that forbids memfd_create", True)
def seccomp_memfd(b):
    return refuses(b, "seccomp-memfd-alone", 52, "memfd_create")


@case("elsewhere", "a seccomp filter that ends the process at memfd_create", True)
def seccomp_kill(b):
    need_root()
    return refuses(b, "seccomp-kill-alone", 34, "seccomp", "319")


@case("elsewhere", "a musl program (the mechanism)")
def musl(b):
    b.need("musl-gcc")
    source = os.path.join(b.folder, "musl.c")
    with open(source, "w") as file:
        file.write('#include <pthread.h>\n#include <dlfcn.h>\n#include <stdio.h>\n#include <time.h>\n'
                   'static void *t(void *a) { for (;;) nanosleep(&(struct timespec){0, 10000000}, 0);'
                   ' return a; }\n'
                   'int main(void) { pthread_t p; pthread_create(&p, 0, t, 0); dlsym(0, "x");\n'
                   'puts("ready"); fflush(stdout); for (int i = 0;; i++) {'
                   ' nanosleep(&(struct timespec){0, 50000000}, 0); printf("beat %d\\n", i);'
                   ' fflush(stdout); } }')
    toy = os.path.join(b.folder, "toy.so")
    done = run(["musl-gcc", "-shared", "-fPIC", "-I", os.path.join(LIVE, "..", ".."),
                os.path.join(LIVE, "toy_payload.c"), "-o", toy])
    if done.status != 0:
        raise Impossible("musl-gcc cannot build the payload: " + done.err[-100:])
    program = b.native(b.compile(source, compiler="musl-gcc"))
    words = b.inject(program.pid, "--any", "--payload", toy, "--search-ms", "300")
    beats_on(program, 3)
    # Where musl has no unwind tables (Debian's), no stack can be judged, and nothing is stopped.
    assert words["status"] == 0 or (words["status"] == 23 and "unwind" in words["message"]), words
    return "attached" if words["status"] == 0 else "refused, status %d" % words["status"]
