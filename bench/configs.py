# SPDX-License-Identifier: MIT
"""The configurations that are compared, in the order of the tables' rows."""
import collections

# frames: tm-attach's --traceback-limit, or tracemalloc's. sample: --sample's argument.
# native: --native's depth, 0: none. The tool libunwind is left out where it was not built.
Config = collections.namedtuple("Config", "name tool frames sample native", defaults=(0,))

CONFIGS = [
    Config("no tracing", "none", 0, None),
    Config("attached, detached", "detached", 1, None),
    Config("tm, sampled 512 KiB", "tm", 16, "512K"),
    Config("tm, 1 frame", "tm", 1, None),
    Config("tm, 16 frames", "tm", 16, None),
    Config("tm, 64 frames", "tm", 64, None),
    Config("tm, 1 frame, 16 native", "tm", 1, None, 16),
    Config("tm, 16 frames, 16 native", "tm", 16, None, 16),
    Config("libunwind, 16 native", "libunwind", 0, None, 16),
    Config("tracemalloc, 1 frame", "tracemalloc", 1, None),
    Config("tracemalloc, 16 frames", "tracemalloc", 16, None),
    Config("tracemalloc, 64 frames", "tracemalloc", 64, None),
]
BASE = CONFIGS[0].name

# The mix that the geometric mean is taken over, what allocates nothing, and the real ones.
MIX = ["churn", "json_loads", "tree", "deep", "live", "compute"]
NOTHING = ["recursion"]
REAL = ["django_templates", "sqlite_json", "asyncio_streams", "ast_regex"]

# What a smoke run takes of both: each tool, each kind of workload, once.
QUICK = [BASE, "attached, detached", "tm, sampled 512 KiB", "tm, 16 frames",
         "tracemalloc, 16 frames"]
QUICK_WORKLOADS = ["churn", "deep", "recursion", "ast_regex"]
