# SPDX-License-Identifier: MIT
"""Each "trace" starts and stops tracemalloc."""
import tracemalloc

from _victim import obey, read_command, say

say("ready", 1)
while True:
    words = read_command()
    if words[0] == "trace":
        tracemalloc.start()
        block = bytearray(100000)
        assert tracemalloc.get_traced_memory()[0] >= len(block)
        tracemalloc.stop()
        say("traced")
    else:
        obey(words)
