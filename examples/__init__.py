# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules of our own, that releases name: one directory each."""
