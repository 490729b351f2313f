# SPDX-License-Identifier: MIT
"""Parses modules of the standard library, walks their trees, and searches them with regexes."""
import ast
import os
import re

_FOLDER = os.path.dirname(os.__file__)
_NAMES = ["argparse.py", "ast.py", "inspect.py", "tarfile.py", "threading.py", "zipfile.py",
          "typing.py", "shutil.py", "subprocess.py", "textwrap.py"]
_WORD = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*)\s*\(")
_sources = []
for _name in _NAMES:
    if os.path.exists(os.path.join(_FOLDER, _name)):
        with open(os.path.join(_FOLDER, _name), encoding="utf-8") as _file:
            _sources.append(_file.read())


def run(scale):
    for source in _sources[:max(1, int(3 * scale))]:
        tree = ast.parse(source)
        names = {}
        for node in ast.walk(tree):
            names[type(node).__name__] = names.get(type(node).__name__, 0) + 1
        words = {}
        for match in _WORD.finditer(source):
            words.setdefault(match.group(1), []).append(match.start())
