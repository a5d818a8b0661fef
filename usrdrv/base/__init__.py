# SPDX-License-Identifier: MIT
"""What all parts use and none of them owns. Imports nothing else of ours."""
