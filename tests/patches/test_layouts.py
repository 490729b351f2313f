# SPDX-License-Identifier: MIT
"""docs/LAYOUTS.md against the headers of the Pythons that TM_PYTHON_PATCHED_27 and _33 name.

TM_PYTHON_HEADERS names more interpreters of 2.7 to 3.5 (paths with colons between) whose
installed headers are to be checked; they need no patch.
"""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TABLE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "LAYOUTS.md"
VERSIONS = ["2.7", "3.3", "3.4", "3.5"]
ASK = """import sys, sysconfig
print('%d.%d' % sys.version_info[:2]); print(sysconfig.get_config_var('INCLUDEPY'))
print(sysconfig.get_config_var('Py_DEBUG'))"""


def rows():
    """[(expression in C, {version: value})] of the table, without what a version has not."""
    found = []
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 2 + len(VERSIONS) or not re.match(r"\d+$|-$", cells[2]):
            continue
        member = re.match(r"sizeof\(\w+\)|(\w+)\.(\w+)", cells[1])
        expression = "offsetof(%s, %s)" % member.groups() if member.group(1) else member.group(0)
        values = {v: int(cell) for v, cell in zip(VERSIONS, cells[2:]) if cell != "-"}
        found.append((expression, values))
    return found


def pythons():
    named = [os.environ.get("TM_PYTHON_PATCHED_27"), os.environ.get("TM_PYTHON_PATCHED_33")]
    named += os.environ.get("TM_PYTHON_HEADERS", "").split(":")
    return [python for python in named if python]


def test_table_is_whole():
    assert len(rows()) == 17
    for version in VERSIONS:
        assert len([1 for _, values in rows() if version in values]) >= 13


@pytest.mark.parametrize("python", pythons() or [None])
def test_table_agrees_with_headers(python, tmp_path):
    if python is None:
        pytest.skip("none of TM_PYTHON_PATCHED_27, TM_PYTHON_PATCHED_33, TM_PYTHON_HEADERS is set")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    version, include, debug = subprocess.check_output(
        [python, "-c", ASK], universal_newlines=True).split()
    if version not in VERSIONS or debug == "1":
        pytest.skip("not a release build of " + ", ".join(VERSIONS))
    if not (pathlib.Path(include) / "Python.h").exists():
        pytest.skip("no headers in " + include)
    expected = [(expression, values[version]) for expression, values in rows() if version in values]
    program = tmp_path / "offsets.c"
    program.write_text("#include <Python.h>\n#include <frameobject.h>\n#include <stddef.h>\n"
                       "int main(void)\n{\n" +
                       "".join('    printf("%%zu\\n", %s);\n' % e for e, _ in expected) +
                       "    return 0;\n}\n")
    subprocess.check_call([compiler, "-w", "-I" + include, "-o", str(tmp_path / "offsets"),
                           str(program)])
    printed = subprocess.check_output([str(tmp_path / "offsets")], universal_newlines=True)
    assert list(zip([e for e, _ in expected], map(int, printed.split()))) == expected
