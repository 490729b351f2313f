# SPDX-License-Identifier: MIT
"""The man page and the completions know every command and every option."""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios

import pytest

from conftest import need

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
COMMANDS = ["", "top", "diff", "summary", "traceback", "block", "leaks", "timeline", "merge",
            "convert", "verify", "extract"]


def read(*path):
    with open(os.path.join(ROOT, *path)) as file:
        return file.read()


def options_of(shop, command):
    text = shop.ok(*([command] if command else []), "--help")
    return set(re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.M)) - {"help"}


def test_help_names_every_command(shop):
    text = shop.ok("--help")
    for command in COMMANDS[1:]:
        assert re.search(r"^  %s +\S" % command, text, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_completions(shop, command):
    bash, zsh, fish = (read("completions", "bash", "tm-analyze"),
                       read("completions", "zsh", "_tm-analyze"),
                       read("completions", "fish", "tm-analyze.fish"))
    assert command in bash and command in zsh and command in fish
    for option in options_of(shop, command):
        assert "--" + option in bash, option
        assert "--" + option in zsh, option
        assert "-l " + option in fish, option


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_every_option(shop, command):
    script = (". '%s'; COMP_WORDS=(tm-analyze %s --); COMP_CWORD=%d; _tm_analyze; "
              "echo \"${COMPREPLY[@]}\"") % (
                  os.path.join(ROOT, "completions", "bash", "tm-analyze"), command,
                  2 if command else 1)
    words = subprocess.run([need("bash"), "-c", script], stdout=subprocess.PIPE, check=True,
                           stderr=subprocess.DEVNULL).stdout.decode().split()
    assert {"--" + option for option in options_of(shop, command)} == set(words) - {"--help",
                                                                                   "--version"}


def test_fish_completes_every_option(shop):
    lines = ["source '%s'" % os.path.join(ROOT, "completions", "fish", "tm-analyze.fish")]
    lines += ["echo '=%s'; complete -C 'tm-analyze %s --'" % (command, command)
              for command in COMMANDS]
    lines += ["echo '=words'; complete -C 'tm-analyze '",
              "echo '=nouns'; complete -C 'tm-analyze top -g '"]
    result = subprocess.run([need("fish"), "--no-config", "-c", "\n".join(lines)], check=True,
                            cwd=shop.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=dict(os.environ, HOME=shop.path))
    assert result.stderr == b""
    found = {}
    for part in result.stdout.decode().split("=")[1:]:
        command, *words = part.splitlines()
        found[command] = {word.split("\t")[0] for word in words}
    for command in COMMANDS:
        wanted = {"--" + option for option in options_of(shop, command)}
        assert wanted == found[command] - {"--help", "--version"}, command
    assert set(COMMANDS[1:]) <= found["words"]
    assert {"line", "thread", "module"} <= found["nouns"]


class Terminal:
    """A shell at a terminal so tall that no list is cut."""

    def __init__(self, *args, **kwargs):
        self.fd, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 2000, 200, 0, 0))
        self.process = subprocess.Popen(list(args), stdin=end, stdout=end, stderr=end,
                                        start_new_session=True, **kwargs)
        os.close(end)
        self.unread = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def read_until(self, mark):
        while mark not in self.unread:
            ready, _, _ = select.select([self.fd], [], [], 60)
            assert ready, self.unread
            self.unread += os.read(self.fd, 65536).decode("utf-8", "replace")
        text, self.unread = self.unread.split(mark, 1)
        return text

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


def test_zsh_completes_every_option(shop):
    """The tab key, pressed in zsh. Its list of choices ends where the next prompt begins."""
    terminal = Terminal(need("zsh"), "-f", "-i", cwd=shop.path,
                        env=dict(os.environ, HOME=shop.path, TERM="dumb"))
    try:
        terminal.type("PS1='ready''> '; unsetopt zle_bracketed_paste; LISTMAX=100000; "
                      "fpath=('%s' $fpath); autoload -Uz compinit; compinit -u -D; "
                      "bindkey '^T' list-choices; bindkey '^U' kill-whole-line; cd .\n"
                      % os.path.join(ROOT, "completions", "zsh"))
        terminal.read_until("ready> ")
        for command in COMMANDS:
            # A line of its own after each list: what it echoes is not what was typed.
            terminal.type("tm-analyze %s --\x14\x15echo do''ne\n" % command)
            text = terminal.read_until("done\r\n")
            terminal.read_until("ready> ")
            words = set(re.findall(r"--[a-z-]+[a-z]", text))
            wanted = {"--" + option for option in options_of(shop, command)}
            assert wanted <= words, (command, wanted - words)
            assert words <= wanted, (command, words - wanted)
        terminal.type("tm-analyze \x14\x15echo do''ne\n")
        text = terminal.read_until("done\r\n")
        for command in COMMANDS[1:]:
            assert re.search(r"^%s +-- " % command, text, re.M), command
    finally:
        terminal.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_manual(shop, command):
    text = read("man", "tm-analyze.1").replace("\\&", "")
    assert not command or ".It Cm %s\n" % command in text
    for option in options_of(shop, command):
        assert re.search(r"Fl -%s\b|, -%s\b" % (option, option), text), option
