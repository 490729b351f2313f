# SPDX-License-Identifier: MIT
"""Leaks through a chain of calls: a generator, a method, a lambda and a C function that calls back."""
import _victim

PATTERN = b"x"  # not a literal below: the compiler would make one constant of the product


class Store(object):
    def __init__(self):
        self.rows = {}

    def keep(self, key):
        self.rows[key] = PATTERN * 1500  # LEAK-METHOD


def produce(store, count):
    for key in range(count):
        store.keep(key)  # CALL-KEEP
        yield key


def through_c(store, count):
    return sum(map(lambda key: key * 0 + 1, produce(store, count)))  # CALL-GENERATOR


stores = []
_victim.say("ready", 1)
while True:
    words = _victim.read_command()
    if words[0] == "chain":
        stores.append(Store())
        stores[-1].rows.update((key, None) for key in range(int(words[1])))
        _victim.say("chained", through_c(stores[-1], int(words[1])))  # CALL-C
    else:
        _victim.obey(words)
