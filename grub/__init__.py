# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot loader texts: parse, edit, write back byte for byte. No I/O in this package."""
