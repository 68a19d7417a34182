# SPDX-License-Identifier: GPL-2.0-or-later
"""From two source archives to a running single-system image, without losing a node."""

__version__ = "0.1.0"
