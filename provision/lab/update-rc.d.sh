#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The calls of Debian's update-rc.d(8) that scripts make: NAME defaults [NUMBER], NAME remove.
[ "$1" = -f ] && shift
name=$1
case $name in
'' | */* | .*) echo "usage: update-rc.d [-f] NAME defaults|remove" >&2; exit 1 ;;
esac
number=${3:-20}
case $number in
[0-9][0-9]) ;;
*) echo "update-rc.d: $number: not a number of two digits" >&2; exit 1 ;;
esac
case $2 in
defaults)
	if [ ! -e "/etc/init.d/$name" ]; then
		echo "update-rc.d: there is no /etc/init.d/$name" >&2
		exit 1
	fi
	for level in 0 1 6; do
		ln -sf "../init.d/$name" "/etc/rc$level.d/K$number$name" || exit 1
	done
	for level in 2 3 4 5; do
		ln -sf "../init.d/$name" "/etc/rc$level.d/S$number$name" || exit 1
	done
	;;
remove) rm -f /etc/rc[0-6].d/[SK][0-9][0-9]"$name" ;;
*) echo "update-rc.d: $2: not known here" >&2; exit 1 ;;
esac
