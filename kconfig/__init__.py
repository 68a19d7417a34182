# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel configuration: load a Kconfig tree of any age, generate, check, explain."""
