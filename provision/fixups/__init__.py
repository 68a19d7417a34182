# SPDX-License-Identifier: GPL-2.0-or-later
"""Data only: one TOML file each; read by provision/fixup.py."""
