# SPDX-License-Identifier: MIT
"""The CMD PCI-0680 with its drives."""
