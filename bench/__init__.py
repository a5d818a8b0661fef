# SPDX-License-Identifier: MIT
"""Measurements: `python -m bench`. What each figure is: docs/performance.md."""
