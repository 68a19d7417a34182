#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What a node with a disk does once at boot: run by init, seen on the console. It is the same
# under every kernel; that Kerrighed is loaded is the business of /etc/rc2.d.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { echo "lab: $*"; }

mount -o remount,rw / || say "FAILED: / cannot be written"
[ -r /etc/hostname ] && hostname "$(cat /etc/hostname)"
ifconfig lo 127.0.0.1 up
result=0
while read -r card address mask gateway; do
	if ifconfig "$card" "$address" netmask "$mask" up; then
		say "$card is up, $address"
		[ -z "$gateway" ] || route add default gw "$gateway"
	else
		say "FAILED: $card does not come up"
		result=1
	fi
done </etc/lab/network
for script in /etc/rc2.d/S*; do
	if [ -x "$script" ]; then
		"$script" start || say "$script ended with status $?"
	fi
done
say "booted $(uname -r)"
exit "$result"
