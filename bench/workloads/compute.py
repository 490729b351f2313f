# SPDX-License-Identifier: MIT
"""Integer arithmetic only."""


def run(scale):
    total = 1
    for i in range(int(1200000 * scale)):
        total = (total * 1103515245 + i) & 0xffffffff
    return total
