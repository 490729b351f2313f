# SPDX-License-Identifier: MIT
"""Dicts, strings and lists built and dropped."""


def run(scale):
    for i in range(int(1200 * scale) + 1):
        rows = [{"id": j, "name": "name-%d-%d" % (i, j), "tags": [j, j + 1, str(j)]}
                for j in range(60)]
        index = {row["name"]: row for row in rows}
        del rows, index
