# SPDX-License-Identifier: MIT
"""Churn under 60 Python frames."""
import churn


def _descend(depth, scale):
    if depth:
        return _descend(depth - 1, scale)
    return churn.run(scale)


def run(scale):
    _descend(60, scale)
