# SPDX-License-Identifier: MIT
"""Every case of docs/ROBUSTNESS.md, on each of the Pythons of its table where that matters."""
import pytest

from robustness import CASES, Impossible, run_case, table_pythons

PYTHONS = table_pythons()
RUNS = [(case, python) for case in CASES
        for python in (PYTHONS if case.each_python else PYTHONS[-1:])]


@pytest.mark.parametrize("case, target_python", RUNS,
                         ids=["%s-%s" % (case.name, python.name) for case, python in RUNS])
def test_case(case, target_python):
    try:
        run_case(case, target_python)
    except Impossible as error:
        pytest.skip(str(error))
