# SPDX-License-Identifier: MIT
"""A tree of objects, built by recursion and dropped."""


class Node(object):
    def __init__(self, depth):
        self.value = float(depth)
        self.children = [Node(depth - 1), Node(depth - 1)] if depth else []


def run(scale):
    for _ in range(int(10 * scale) + 1):
        Node(12)
