#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# /init of the stock kernel's initramfs: drivers, the root file system, and on to its init.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

root=/dev/sda1
# shellcheck disable=SC2013 # words are what is meant
for word in $(cat /proc/cmdline); do
	case $word in
	root=*) root=${word#*=} ;;
	esac
done
while read -r module; do
	insmod "/modules/$module.ko" || echo "initramfs: $module was not loaded"
done </modules/order

# The disk is looked for in the background.
tries=600
while [ ! -b "$root" ] && [ "$tries" -gt 0 ]; do
	tries=$((tries - 1))
	sleep 0.1
done
if mount -t ext3 -o ro "$root" /mnt; then
	umount /sys /proc
	umount /dev
	exec switch_root -c /dev/console /mnt /sbin/init
fi
echo "initramfs: $root cannot be mounted; again in 10 seconds"
sleep 10
reboot -f
