# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual cluster on this machine: QEMU nodes that boot a build and form one system."""
