# SPDX-License-Identifier: MIT
"""json.loads of a document of nested objects."""
import json

_text = json.dumps([{"id": i, "name": "name %d" % i, "tags": ["a%d" % i, "b%d" % (i * 7)],
                     "nested": {"x": i / 3.0, "y": [i, i + 1, i + 2], "z": None}}
                    for i in range(2000)])


def run(scale):
    for _ in range(int(16 * scale) + 1):
        json.loads(_text)
