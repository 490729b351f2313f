# SPDX-License-Identifier: MIT
"""gdb commands that read the memory traces of a Python process or core.

Load with `source tm.py`, `gdb -x tm.py`, or let an installation's auto-load
directory do it. Nothing here runs code in the program: tm-analyze reads its
memory from outside, or the core file. tm-attach is the one exception, and
says so. Works with gdb 9 and later (Python 3).

The programs are looked for in `set tm-directory DIR`, $TM_BIN_DIR, beside an
installation or a build of this file, and on PATH.
"""
import atexit
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import gdb

# Not __file__: where one script of gdb sources another, it is the name of the first.
_HERE = os.path.dirname(os.path.realpath(sys._getframe().f_code.co_filename))
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS"}
# Those whose default is not to end the program, signal(7).
_HARMLESS = {"SIGCHLD", "SIGURG", "SIGWINCH", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}

HELP = """\
tm-snapshot [FILE]     write the traces to a snapshot file; print its name
tm-top [N]             the N lines that hold the most memory (default 10)
tm-diff A B            what grew between two snapshot files
tm-block ADDRESS       where the block that ADDRESS lies in was allocated; any
                       expression: tm-block self, tm-block $rdi
tm-status              what is traced, and what a snapshot would be made from
tm-attach [OPTIONS]    start tracing the live process (it runs for a moment)
set tm-directory DIR   where tm-analyze and tm-attach are

Processes and cores that ran with the standard library's tracemalloc work as
well, where the interpreter has debug information."""


class TmDirectory(gdb.Parameter):
    """The directory of tm-analyze and tm-attach; empty: look for them."""

    set_doc = "Set the directory of tm-analyze and tm-attach."
    show_doc = "Show the directory of tm-analyze and tm-attach."

    def __init__(self):
        super().__init__("tm-directory", gdb.COMMAND_FILES, gdb.PARAM_OPTIONAL_FILENAME)
        self.value = ""

    def get_set_string(self):
        return ""

    def get_show_string(self, value):
        return "tm's programs are looked for in %s." % (value or "the usual places")


DIRECTORY = TmDirectory()


def find_program(name):
    """The path of tm-analyze or tm-attach."""
    folders = [DIRECTORY.value, os.environ.get("TM_BIN_DIR")]
    # An installation has us in PREFIX/share/..., a source tree in scripts/gdb.
    folder = _HERE
    for _ in range(8):
        folders += [os.path.join(folder, "bin"), os.path.join(folder, "build", "bin")]
        folder = os.path.dirname(folder)
    for folder in folders:
        if folder and os.access(os.path.join(folder, name), os.X_OK):
            return os.path.join(folder, name)
    path = shutil.which(name)
    if path is None:
        raise gdb.GdbError("%s was not found: set tm-directory DIR" % name)
    return path


def run(name, *args):
    """Runs a program; its output. A failure becomes a GdbError with the program's own line."""
    try:
        # Its own session: Ctrl-C is for gdb, and the inferior's terminal stays its own.
        done = subprocess.run([find_program(name)] + [str(arg) for arg in args],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, start_new_session=True, check=False)
    except OSError as error:
        raise gdb.GdbError("%s: %s" % (name, error))
    err = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        lines = err.splitlines() or ["%s ended with status %d" % (name, done.returncode)]
        text = lines[-1]
        for prefix in ("ERROR: ", "tm-attach: "):
            if text.startswith(prefix):
                text = text[len(prefix):]
        raise gdb.GdbError(text)
    for line in err.splitlines():
        if line.startswith("WARNING:"):
            gdb.write(line + "\n")
    return done.stdout.decode(errors="replace")


def core_file():
    """The core that gdb reads, or None. gdb 13 has no API for it; its table of files says it."""
    files = gdb.execute("info files", to_string=True)
    at = files.find("Local core dump file:")
    if at < 0:
        return None
    start = files.find("`", at)
    end = files.find("'", start)
    return files[start + 1:end] if 0 <= start < end else None


class Origin:
    """What the selected inferior is: a live process of this machine, or a core."""

    def __init__(self):
        inferior = gdb.selected_inferior()
        connection = getattr(inferior, "connection", None)
        kind = getattr(connection, "type", None)
        self.pid, self.core, self.exe = None, None, inferior.progspace.filename
        if kind == "core" or (kind is None and core_file()):
            self.core = core_file()
            if self.core is None:
                raise gdb.GdbError("gdb does not say which core file it reads")
        elif inferior.pid == 0:
            raise gdb.GdbError("there is no process and no core file: use attach, run or core-file")
        elif kind not in (None, "native"):
            raise gdb.GdbError("the process is on another machine (target %s): run tm there" % kind)
        else:
            self.pid = inferior.pid

    def arguments(self):
        if self.core is None:
            return ["--pid", self.pid]
        return ["--core", self.core] + (["--exe", self.exe] if self.exe else [])

    def __str__(self):
        return "core %s" % self.core if self.core else "process %d" % self.pid


class Cache:
    """The snapshot of the moment that the program is stopped at; gone when it goes on."""

    def __init__(self):
        self.key, self.path, self.folder = None, None, None
        for registry in (gdb.events.cont, gdb.events.exited, gdb.events.memory_changed,
                         gdb.events.new_objfile, gdb.events.clear_objfiles):
            registry.connect(lambda event: self.clear())

    def clear(self):
        self.key = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def get(self):
        origin = Origin()
        if self.key != str(origin):
            self.clear()
            self.folder = tempfile.mkdtemp(prefix="tm-gdb-")
            self.path = os.path.join(self.folder, "now.tms")
            run("tm-analyze", "extract", "-o", self.path, *origin.arguments())
            self.key = str(origin)
        return self.path


CACHE = Cache()
atexit.register(CACHE.clear)


def words(argument, most, usage):
    """The words of a command's argument, as gdb splits them."""
    result = gdb.string_to_argv(argument)
    if len(result) > most:
        raise gdb.GdbError("usage: " + usage)
    return result


class Command(gdb.Command):
    """A command without surprises: a mistake is one line, never a Python traceback."""

    completion = gdb.COMPLETE_NONE

    def __init__(self, name):
        super().__init__(name, gdb.COMMAND_DATA, self.completion)

    def invoke(self, argument, from_tty):
        try:
            self.do(argument)
        except (gdb.error, OSError, ValueError, RuntimeError, OverflowError) as error:
            # gdb.GdbError is none of these.
            raise gdb.GdbError(str(error))

    def do(self, argument):
        raise NotImplementedError


class TmSnapshot(Command):
    """tm-snapshot [FILE]: write the memory traces of the program to a snapshot file.

Reads the stopped process from outside, wherever it is stopped, or the core file. Without FILE
the name is tracemalloc-PID-gdb-NNNN.tms. Read it with tm-analyze, tm-diff."""

    completion = gdb.COMPLETE_FILENAME

    def do(self, argument):
        args = words(argument, 1, "tm-snapshot [FILE]")
        origin = Origin()
        if args:
            path = os.path.expanduser(args[0])
        else:
            number = 1
            name = "tracemalloc-%s-gdb-%04d.tms"
            who = origin.pid or "core"
            while os.path.exists(name % (who, number)):
                number += 1
            path = name % (who, number)
        run("tm-analyze", "extract", "-o", path, *origin.arguments())
        gdb.write("%s\n" % os.path.abspath(path))


class TmTop(Command):
    """tm-top [N]: the N lines of Python code (default 10) that hold the most memory."""

    def do(self, argument):
        args = words(argument, 1, "tm-top [N]")
        number = args[0] if args else "10"
        if not number.isdigit() or not 0 < int(number) < 10 ** 9:
            raise gdb.GdbError("'%s' is not a number of lines; usage: tm-top [N]" % number)
        gdb.write(run("tm-analyze", "top", "-n", number, "--no-color", CACHE.get()))


class TmDiff(Command):
    """tm-diff A B: what grew between two snapshot files."""

    completion = gdb.COMPLETE_FILENAME

    def do(self, argument):
        args = words(argument, 2, "tm-diff A B")
        if len(args) != 2:
            raise gdb.GdbError("usage: tm-diff A B")
        paths = [os.path.expanduser(arg) for arg in args]
        gdb.write(run("tm-analyze", "diff", "--no-color", *paths))


class TmBlock(Command):
    """tm-block ADDRESS: which traceback allocated the memory block that ADDRESS lies in.

ADDRESS is any expression that calls no function; it may point into the middle of the block."""

    completion = gdb.COMPLETE_EXPRESSION

    def do(self, argument):
        if not argument.strip():
            raise gdb.GdbError("usage: tm-block ADDRESS")
        address = evaluate(argument)
        path = CACHE.get()
        try:
            gdb.write(run("tm-analyze", "block", "--no-color", hex(address), path))
        except gdb.GdbError as error:
            if "has no memory block" in str(error):
                raise gdb.GdbError("%s has no traced memory block at %#x" % (Origin(), address))
            raise


def evaluate(expression):
    """An address. A string literal or a call would run malloc or more in the program."""
    setting = "may-call-functions"
    before = gdb.parameter(setting)
    gdb.execute("set %s off" % setting)
    try:
        return int(gdb.parse_and_eval(expression).cast(gdb.lookup_type("unsigned long")))
    finally:
        gdb.execute("set %s %s" % (setting, "on" if before else "off"))


class TmStatus(Command):
    """tm-status: what is traced, and what a snapshot would be made from."""

    def do(self, argument):
        words(argument, 0, "tm-status")
        origin = Origin()
        path = CACHE.get()
        items = json.loads(run("tm-analyze", "summary", "--json", path))["items"]
        facts = {item["name"]: item["value"] for item in items if item["section"] == "fact"}
        gdb.write("%s: Python %s, %s\n" % (origin, facts.get("python", "?"),
                                          facts.get("cmdline", "command line not known")))
        gdb.write(run("tm-analyze", "verify", path).split(": ", 1)[-1])
        gdb.write("traced by %s, %s frames at most, domains %s\n" % (
            "the standard library's tracemalloc" if facts.get("origin") == "tracemalloc" else "tm",
            facts.get("traceback_limit", "?"), facts.get("domains", "?")))
        for name, text in (("sample_bytes", "one block in %s bytes on average is recorded"),
                           ("native", "native frames: %s at most"),
                           ("dropped", "%s blocks could not be recorded"),
                           ("torn", "%s entries were not trusted and are left out")):
            if facts.get(name, "0") != "0":
                gdb.write(text % facts[name] + "\n")


class TmAttach(Command):
    """tm-attach [OPTIONS]: start tracing the live process, as the program tm-attach does.

gdb lets go of the process for that moment, so that it runs on to a safe point, and then attaches
again: it is stopped somewhere else afterwards. Refused where that cannot be safe."""

    def do(self, argument):
        origin = Origin()
        if origin.core is not None:
            raise gdb.GdbError("a core file cannot be traced; tm-snapshot reads what it holds")
        self.check(origin)
        options = shlex.split(argument)
        for before, word in zip([""] + options, options):
            if word == "--" or (word.isdigit() and not before.startswith("-")):
                raise gdb.GdbError("'%s': tm-attach is for the program that gdb has; usage: "
                                   "tm-attach [OPTIONS]" % word)
        gdb.write("Letting go of process %d: it runs while tm-attach looks for a safe point.\n"
                  % origin.pid)
        gdb.execute("detach", to_string=True)
        try:
            gdb.write(run("tm-attach", *(options + [origin.pid])))
        finally:
            gdb.execute("attach %d" % origin.pid, to_string=True)

    @staticmethod
    def check(origin):
        thread = gdb.selected_thread()
        if thread is None:
            raise gdb.GdbError("no thread is selected")
        if any(t.is_running() for t in gdb.selected_inferior().threads()):
            raise gdb.GdbError("some threads run: interrupt the program first")
        text = gdb.execute("info program", to_string=True)
        stop = re.search(r"\b(SIG[A-Z0-9]+)\b", text)
        if stop and would_die_of(stop.group(1), origin.pid):
            raise gdb.GdbError("the program was stopped by %s and would die of it if it went on; "
                               "tm-snapshot reads it as it is" % stop.group(1))
        if "execution-direction" in text or "replay" in text:
            raise gdb.GdbError("the program is being replayed")
        for breakpoint_ in gdb.breakpoints() or ():
            if breakpoint_.type != gdb.BP_BREAKPOINT and breakpoint_.is_valid():
                raise gdb.GdbError("breakpoint %d watches memory, which gdb cannot do while it has "
                                   "let go: delete it first" % breakpoint_.number)
        for frame in frames(gdb.newest_frame()):
            if frame.type() == gdb.DUMMY_FRAME:
                raise gdb.GdbError("a function that gdb called in the program has not returned: "
                                   "letting go would leave the program on gdb's stack frame")


def would_die_of(name, pid):
    """Whether the program ends by the signal that stopped it, when gdb lets go of it."""
    if name in _FAULTS:
        return True  # what it did wrong it does again, a handler of its own or not
    number = getattr(signal, name, None)
    handled = gdb.execute("info signals %s" % name, to_string=True).splitlines()[-1].split()
    if number is None or name in _HARMLESS or handled[3:4] != ["Yes"]:
        return False  # gdb keeps it to itself
    with open("/proc/%d/status" % pid) as file:
        masks = dict(line.split(":\t", 1) for line in file if line.startswith("Sig"))
    mask = int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)
    return not mask >> number - 1 & 1


def frames(frame):
    for _ in range(10000):
        if frame is None:
            return
        yield frame
        try:
            frame = frame.older()
        except gdb.error:
            return


class TmHelp(Command):
    """tm-help: the commands of tm."""

    def do(self, argument):
        words(argument, 0, "tm-help")
        gdb.write(HELP + "\n")


for _name, _class in (("tm-snapshot", TmSnapshot), ("tm-top", TmTop), ("tm-diff", TmDiff),
                      ("tm-block", TmBlock), ("tm-status", TmStatus), ("tm-attach", TmAttach),
                      ("tm-help", TmHelp)):
    _class(_name)
