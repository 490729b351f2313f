# SPDX-License-Identifier: MIT
"""The man page and the completions know every command and every option."""
import os
import re
import shutil
import subprocess

import pytest

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
COMMANDS = ["", "top", "diff", "summary", "traceback", "block", "leaks", "timeline", "merge",
            "convert", "verify"]


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
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = (". '%s'; COMP_WORDS=(tm-analyze %s --); COMP_CWORD=%d; _tm_analyze; "
              "echo \"${COMPREPLY[@]}\"") % (
                  os.path.join(ROOT, "completions", "bash", "tm-analyze"), command,
                  2 if command else 1)
    words = subprocess.run([bash, "-c", script], stdout=subprocess.PIPE, check=True,
                           stderr=subprocess.DEVNULL).stdout.decode().split()
    assert {"--" + option for option in options_of(shop, command)} <= set(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_manual(shop, command):
    text = read("man", "tm-analyze.1").replace("\\&", "")
    assert not command or ".It Cm %s\n" % command in text
    for option in options_of(shop, command):
        assert re.search(r"Fl -%s\b|, -%s\b" % (option, option), text), option
