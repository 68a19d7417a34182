# SPDX-License-Identifier: GPL-2.0-or-later
"""Data only: one TOML file for each policy; read by kconfig/policy.py."""
