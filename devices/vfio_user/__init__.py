# SPDX-License-Identifier: MIT
"""A model on a vfio-user socket."""
