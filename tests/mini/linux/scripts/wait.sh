#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Where a test wants to meet the build: says its process id and stays there.
[ "${MINI_WAIT:-}" = "$1" ] || exit 0
echo $$ >"$MINI_MARK.new"
mv "$MINI_MARK.new" "$MINI_MARK"
exec sleep 1000
