# SPDX-License-Identifier: MIT
"""Small blocks that are all kept until the end of the run: 2.1 million at scale 1."""


def build(blocks):
    """That many traced blocks, more or less: a tuple and a float each time, and the list."""
    return [(i * 0.5,) for i in range(blocks // 2)]


def run(scale):
    return build(int(2100000 * scale))
