# SPDX-License-Identifier: GPL-2.0-or-later
"""Data only: the Jinja2 templates, installed as provision.templates."""
