# SPDX-License-Identifier: MIT
"""hostile.py KIND [HELPER [ARG]]: a program that makes an attach hard in the way KIND says. Heart 0
beats on a thread of its own, or on the main thread for the kinds that end in -alone. HELPER is the
path of libtm-victim-helper.so; numbers from C are counted in the shared page at 800."""
import ctypes
import os
import signal
import sys
import threading
import time

import _victim

KIND = sys.argv[1]
HELPER = sys.argv[2] if len(sys.argv) > 2 else None
ARG = int(sys.argv[3]) if len(sys.argv) > 3 else 0


def counter_address(index):
    return ctypes.addressof(ctypes.c_char.from_buffer(_victim._page, 8 * index))


def beat_for_ever(pause=0.02):
    while True:
        _victim.beat(0)
        time.sleep(pause)


def start(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.daemon = True
    thread.start()
    return thread


def seccomp(action, numbers):
    """Forbids system calls: a classic BPF program, as in seccomp(2)."""
    import struct
    code = [(0x20, 0, 0, 0)]                                     # the number
    for i, number in enumerate(numbers):
        code.append((0x15, len(numbers) - i, 0, number))         # equal: to the last line
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, action)]     # allow; else action
    program = ctypes.create_string_buffer(
        b"".join(struct.pack("<HBBI", *line) for line in code))
    head = ctypes.create_string_buffer(
        struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arg = ctypes.c_ulong
    assert prctl(38, arg(1), arg(0), arg(0), arg(0)) == 0        # PR_SET_NO_NEW_PRIVS
    assert prctl(22, arg(2), head, arg(0), arg(0)) == 0, ctypes.get_errno()  # PR_SET_SECCOMP


def ready(threads):
    _victim.say("ready", threads)


def busy_alone():
    ready(1)
    while True:
        sum(range(1000))
        _victim.beat(0)


def recv():
    import socket
    left, right = socket.socketpair()
    ready(2)
    left.recv(1)


def lock():
    mine = threading.Lock()
    mine.acquire()
    ready(2)
    mine.acquire()


def group():
    """In a process group of its own, where Ctrl-Z has an effect although there is no shell."""
    os.setpgrp()
    ready(2)
    threading.Event().wait()


def churn():
    # The main thread allocates too, and never comes back.
    ready(2 + 8)
    ctypes.CDLL(HELPER).tm_helper_churn(8, ARG)


def vfork():
    helper = ctypes.CDLL(HELPER)
    ready(2)
    while True:
        helper.tm_helper_vfork(ARG)


def gil_alone():
    """Holds the GIL for ARG ms, again and again."""
    helper = ctypes.PyDLL(HELPER)
    ready(1)
    while True:
        _victim.beat(0)
        helper.tm_helper_hold(ARG)
        time.sleep(0.05)


def storm():
    """Modules imported anew and libraries opened and closed, on three threads."""
    import importlib
    handle = ctypes.CDLL(None)
    handle.dlopen.restype = ctypes.c_void_p

    def open_and_close():
        while True:
            library = handle.dlopen(HELPER.encode(), 2)
            handle.dlclose(ctypes.c_void_p(library))

    def reimport():
        names = "colorsys", "shlex", "stringprep", "this_is_not_there"
        while True:
            for name in names:
                sys.modules.pop(name, None)
                try:
                    importlib.import_module(name)
                except ImportError:
                    pass
    start(open_and_close)
    start(reimport)
    ready(4)
    open_and_close()


def stack():
    """faulthandler's alternate stack on the main thread, which looks at it all the time."""
    import faulthandler
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)
    helper = ctypes.CDLL(HELPER)
    helper.tm_helper_altstack.restype = ctypes.c_ulong
    first = helper.tm_helper_altstack()
    ready(1)
    while True:
        assert helper.tm_helper_altstack() == first, "the alternate stack has moved"
        _victim.beat(0)
        time.sleep(0.01)


def sigtrap(how):
    if how == "ignored":
        signal.signal(signal.SIGTRAP, signal.SIG_IGN)
    elif how == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTRAP])
    else:
        ctypes.CDLL(HELPER).tm_helper_count(
            ctypes.c_int(signal.SIGTRAP), ctypes.c_void_p(counter_address(100)))
    ready(1)
    beat_for_ever()


def flood():
    """Counts SIGUSR1 and a real-time signal; the test sends them and looks at the count."""
    helper = ctypes.CDLL(HELPER)
    for number in (signal.SIGUSR1, signal.SIGRTMIN + 3):
        helper.tm_helper_count(ctypes.c_int(number), ctypes.c_void_p(counter_address(100)))
    ready(1)
    beat_for_ever(0.005)


class Last:
    """Lives in a module's dict until the interpreter is finalized."""

    def __del__(self, beat=_victim.beat, sleep=time.sleep, say=_victim.say):
        say("finalizing")
        while True:
            beat(0)
            sleep(0.02)


def finalizing():
    global LAST
    LAST = Last()
    ready(1)


def sub():
    """A loop in a second interpreter, on a thread of its own."""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    run = getattr(interpreters, "run_string", None)
    one = interpreters.create()
    start(run, one, "import time\nwhile True:\n    x = [i for i in range(100)]\n    time.sleep(0.01)")
    ready(3)
    time.sleep(100000)


def many():
    threading.stack_size(256 * 1024)
    for _ in range(ARG):
        start(time.sleep, 100000)
    ready(2 + ARG)
    time.sleep(100000)


def nofile():
    """No descriptor is left."""
    keep = []
    beat = _victim.beat
    ready(1)
    try:
        while True:
            keep.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    while True:
        beat(0)
        time.sleep(0.02)


def filtered(action, *numbers):
    seccomp(action, numbers)
    ready(1)
    beat_for_ever()


def signals_alone():
    """SIGALRM and SIGPROF every millisecond, handled by Python."""
    signal.signal(signal.SIGALRM, lambda *args: None)
    signal.signal(signal.SIGPROF, lambda *args: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    busy_alone()


def non_dumpable():
    ctypes.CDLL(None).prctl(4, ctypes.c_ulong(0), 0, 0, 0)  # PR_SET_DUMPABLE
    ready(1)
    beat_for_ever()


def chrooted():
    """Where there is nothing, its own directory."""
    os.chroot(os.getcwd())
    ready(1)
    beat_for_ever()


def leader_gone():
    """The main thread ends, the others live on."""
    ready(2)
    ctypes.CDLL(None).pthread_exit(None)


ERRNO, KILL = 0x00050001, 0x80000000  # SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_KILL_PROCESS
KINDS = {
    "busy-alone": busy_alone, "recv": recv, "lock": lock, "group": group, "churn": churn, "vfork": vfork,
    "gil-alone": gil_alone, "storm": storm, "altstack-alone": stack, "flood-alone": flood,
    "finalizing-alone": finalizing, "sub": sub, "many": many, "nofile-alone": nofile,
    "signals-alone": signals_alone, "non-dumpable-alone": non_dumpable,
    "leader-gone": leader_gone, "chroot-alone": chrooted,
    "sigtrap-ignored-alone": lambda: sigtrap("ignored"),
    "sigtrap-blocked-alone": lambda: sigtrap("blocked"),
    "sigtrap-handled-alone": lambda: sigtrap("handled"),
    # memfd_create 319, mprotect 10, ppoll 271, ptrace 101: x86-64
    "seccomp-memfd-alone": lambda: filtered(ERRNO, 319),
    "seccomp-ptrace-alone": lambda: filtered(ERRNO, 101, 271),
    "seccomp-kill-alone": lambda: filtered(KILL, 319, 101),
}
if not KIND.endswith("-alone"):
    start(beat_for_ever)
KINDS[KIND]()
