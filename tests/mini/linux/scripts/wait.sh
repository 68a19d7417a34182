#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Where a test wants to meet the build: says its process id and stays there. The
# test asks by a file, because a build's environment is none of its caller's.
read -r stage mark 2>/dev/null <"$HOME/mini-wait" || exit 0
[ "$stage" = "$1" ] || exit 0
echo $$ >"$mark.new"
mv "$mark.new" "$mark"
exec sleep 1000
