#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What a lab node does once at boot: run by init, seen on the console. The exit
# status tells "lab up" whether the node is fit for the cluster.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { echo "lab: $*"; }
fail() { say "FAILED: $*"; exit 1; }

node='' session=''
# shellcheck disable=SC2013 # words are what is meant
for word in $(cat /proc/cmdline); do
	case $word in
	node_id=*) node=${word#*=} ;;
	session_id=*) session=${word#*=} ;;
	esac
done
if [ -z "$node" ] || [ -z "$session" ]; then
	fail "no node_id= and session_id= on the kernel's command line"
fi

hostname "node$node"
ifconfig lo 127.0.0.1 up
[ -d /sys/class/net/eth0 ] || modprobe e1000
[ -d /sys/class/net/eth0 ] || fail "no eth0: the kernel has no e1000 driver"
# TIPC needs no address; people on the console like to ping.
ifconfig eth0 "10.77.$session.$node" netmask 255.255.255.0 up || fail "eth0 does not come up"
say "eth0 is up, 10.77.$session.$node"

modprobe kerrighed || fail "modprobe kerrighed"
[ -r /sys/kerrighed/node_id ] || fail "the module is loaded, but there is no /sys/kerrighed"
say "Kerrighed is loaded: node $(cat /sys/kerrighed/node_id), session $(cat /sys/kerrighed/session_id)"
mount -t configfs none /config || say "no configfs: the scheduler cannot be configured"
