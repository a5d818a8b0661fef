# SPDX-License-Identifier: MIT
"""What models have in common."""
