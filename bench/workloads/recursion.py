# SPDX-License-Identifier: MIT
"""A recursive function: calls and small integers, which allocate nothing (frames of Pythons before
3.11 come from free lists)."""


def _walk(depth):
    if depth:
        _walk(depth - 1)
        _walk(depth - 1)


def run(scale):
    for _ in range(int(64 * scale) + 1):
        _walk(14)
