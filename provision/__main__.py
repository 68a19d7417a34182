# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m provision`` is krg-provision."""

from provision.cli import main

main()
