# SPDX-License-Identifier: MIT
"""Runs in a patched Python 2.7 or 3.3: drives its allocators and prints one JSON object.

usage: python probe.py allocator_hook.so
"""
from __future__ import print_function

import ctypes
import gc
import json
import sys
import threading

RAW, MEM, OBJ = DOMAINS = range(3)
api = ctypes.pythonapi  # its calls keep the GIL
hook = ctypes.PyDLL(sys.argv[1])
for name in "is_served_by_hook", "is_served_by_original", "arena_is_served_by_original":
    getattr(hook, name).restype = ctypes.c_bool
for name in "malloc_count", "realloc_count", "free_count", "arena_allocs", "arena_frees":
    getattr(hook, name).restype = ctypes.c_long
FAMILIES = {RAW: "PyMem_Raw%s", MEM: "PyMem_%s", OBJ: "PyObject_%s"}


def function(domain, verb):
    found = getattr(api, FAMILIES[domain] % verb)
    found.restype = None if verb == "Free" else ctypes.c_void_p
    found.argtypes = {"Malloc": [ctypes.c_size_t],
                      "Realloc": [ctypes.c_void_p, ctypes.c_size_t],
                      "Free": [ctypes.c_void_p]}[verb]
    return found


def counts(domain):
    return [hook.malloc_count(domain), hook.realloc_count(domain), hook.free_count(domain)]


def call_each_once(domain):
    """How often the hook saw a malloc, a realloc and a free, around one of each (at least)."""
    malloc, realloc, free = [function(domain, verb) for verb in ("Malloc", "Realloc", "Free")]
    before = counts(domain)
    block = malloc(40)
    block = realloc(block, 5000)
    free(block)
    return [b - a for a, b in zip(before, counts(domain))]


def zero_and_huge(domain):
    """Whether two empty blocks differ, and whether a request above PY_SSIZE_T_MAX is refused."""
    malloc, realloc, free = [function(domain, verb) for verb in ("Malloc", "Realloc", "Free")]
    one, other = malloc(0), malloc(0)
    distinct = None not in (one, other) and one != other
    huge = malloc(sys.maxsize + 1)
    huge_again = realloc(one, sys.maxsize + 1)
    free(one)
    free(other)
    return distinct and huge is None and huge_again is None


def seen_during(work, count):
    before = count()
    work()
    return count() - before


def make_threads():
    """Thread states, and locks since 3.3, are blocks of the raw domain."""
    for _ in range(20):
        thread = threading.Thread(target=lambda: [threading.Lock() for _ in range(20)])
        thread.start()
        thread.join()


def grow_list():
    grown = []
    for _ in range(1000):
        grown.append(None)


def fill_arenas():
    kept = [bytearray(1) for _ in range(100000)]
    del kept
    gc.collect()


def main():
    result = {"unhooked": [zero_and_huge(domain) for domain in DOMAINS]}
    for domain in DOMAINS:
        hook.install(domain)
    result["served_by_hook"] = [hook.is_served_by_hook(domain) for domain in DOMAINS]
    result["each_once"] = [call_each_once(domain) for domain in DOMAINS]
    result["hooked"] = [zero_and_huge(domain) for domain in DOMAINS]
    result["raw_by_threads"] = seen_during(make_threads, lambda: hook.malloc_count(RAW))
    result["raw_by_large"] = seen_during(lambda: bytearray(100) and b"x" * 10000,
                                         lambda: hook.malloc_count(RAW))
    result["mem_by_list"] = seen_during(grow_list, lambda: hook.realloc_count(MEM))
    result["obj_by_objects"] = seen_during(lambda: [object() for _ in range(1000)],
                                           lambda: hook.malloc_count(OBJ))
    for domain in DOMAINS:
        hook.restore(domain)
    result["served_by_original"] = [hook.is_served_by_original(domain) for domain in DOMAINS]
    before = [counts(domain) for domain in DOMAINS]
    make_threads()
    grow_list()
    result["silent_afterwards"] = before == [counts(domain) for domain in DOMAINS]

    hook.arena_install()
    fill_arenas()
    hook.arena_restore()
    result["arena_allocs"] = hook.arena_allocs()
    result["arena_frees"] = hook.arena_frees()
    result["arena_served_by_original"] = hook.arena_is_served_by_original()
    result["arena_silent_afterwards"] = seen_during(fill_arenas, hook.arena_allocs) == 0

    unknown = (ctypes.c_void_p * 4)(1, 1, 1, 1)
    api.PyMem_GetAllocator(3, unknown)
    result["unknown_domain"] = list(unknown)
    api.PyMem_SetAllocator(3, unknown)
    api.PyMem_SetupDebugHooks()
    print(json.dumps(result))


main()
