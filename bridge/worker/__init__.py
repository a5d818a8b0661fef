# SPDX-License-Identifier: MIT
"""The processes that drivers run in, seen from outside and from inside."""
