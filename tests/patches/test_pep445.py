# SPDX-License-Identifier: MIT
"""The patches that give CPython 2.7 and 3.3 the allocator API of PEP 445 (docs/PATCHED_PYTHONS.md).

TM_CPYTHON_SRC_27, TM_CPYTHON_SRC_33: source trees of the releases named in RELEASES, unpatched.
TM_PYTHON_PATCHED_27, TM_PYTHON_PATCHED_33: interpreters built from patched trees.
What is not named is skipped.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
PATCHES = HERE.parent.parent / "patches"
RELEASES = {"2.7": "2.7.18", "3.3": "3.3.7"}
TOUCHED = ["Include/objimpl.h", "Include/pymem.h", "Modules/readline.c", "Objects/object.c",
           "Objects/obmalloc.c", "Parser/myreadline.c", "Python/pystate.c"]
TOUCHED = {"2.7": TOUCHED, "3.3": TOUCHED + ["Python/thread_pthread.h"]}
RAW, MEM, OBJ = range(3)

each_version = pytest.mark.parametrize("version", sorted(RELEASES))


def patch_of(version):
    return PATCHES / version / "pep445.patch"


def named_by(variable, version):
    variable += "_" + version.replace(".", "")
    value = os.environ.get(variable)
    if not value:
        pytest.skip(variable + " is not set")
    return value


def run(*command, **options):
    return subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True, timeout=120, **options)


@each_version
def test_patch_touches_what_the_document_says(version):
    text = patch_of(version).read_text()
    assert re.findall(r"^\+\+\+ b/(\S+)$", text, re.M) == TOUCHED[version]
    assert re.findall(r"^--- a/(\S+)$", text, re.M) == TOUCHED[version]


@each_version
def test_patch_applies_cleanly(version):
    tree = named_by("TM_CPYTHON_SRC", version)
    if shutil.which("patch") is None:
        pytest.skip("no patch program")
    header = (pathlib.Path(tree) / "Include" / "patchlevel.h").read_text()
    assert '"%s"' % RELEASES[version] in header, "the tree is not CPython " + RELEASES[version]
    result = run("patch", "-p1", "--dry-run", "--fuzz=0", "-d", tree, "-i", patch_of(version))
    assert result.returncode == 0, result.stdout
    for word in "offset", "fuzz", "FAILED", "Reversed":
        assert word not in result.stdout
    assert result.stdout.count("checking file") == len(TOUCHED[version])


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("hook") / "allocator_hook.so"
    result = run(compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library,
                 HERE / "allocator_hook.c", "-ldl")
    assert result.returncode == 0, result.stdout
    return library


@each_version
def test_allocators_can_be_replaced(version, hook):
    python = named_by("TM_PYTHON_PATCHED", version)
    result = run(python, HERE / "probe.py", hook)
    assert result.returncode == 0, result.stdout
    seen = json.loads(result.stdout)

    assert seen["served_by_hook"] == [True] * 3
    for domain in RAW, MEM, OBJ:
        assert all(count >= 1 for count in seen["each_once"][domain]), seen["each_once"]
    assert seen["unhooked"] == [True] * 3
    assert seen["hooked"] == [True] * 3

    # The interpreter's own blocks pass by the hooks, not only those that the probe asks for.
    assert seen["raw_by_threads"] >= (20 if version == "2.7" else 20 + 20 * 20)
    assert seen["raw_by_large"] >= 1
    assert seen["mem_by_list"] >= 10
    assert seen["obj_by_objects"] >= 1000

    assert seen["served_by_original"] == [True] * 3
    assert seen["silent_afterwards"]


@each_version
def test_arenas_can_be_replaced(version, hook):
    python = named_by("TM_PYTHON_PATCHED", version)
    result = run(python, HERE / "probe.py", hook)
    assert result.returncode == 0, result.stdout
    seen = json.loads(result.stdout)
    assert seen["arena_allocs"] >= 5
    assert seen["arena_frees"] >= 1
    assert seen["arena_served_by_original"]
    assert seen["arena_silent_afterwards"]
    assert seen["unknown_domain"] == [None] * 4
