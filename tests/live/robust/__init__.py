# SPDX-License-Identifier: MIT
"""What an attach must survive: the bench, and the cases by group. ../robustness.py is their table."""
