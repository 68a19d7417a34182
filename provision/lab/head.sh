#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The head node of a lab without disks, as the first process of namespaces of its own (network,
# mounts, processes): does what README.txt of "diskless render" says, on a network that ends
# here. What it starts ends with it, and it ends when a server does.
# Called in the lab's directory with the UUID that it is known by and what the taps' names begin
# with. INITRAMFS, TOOLS (packages unpacked, or / for the machine's own), ADDRESS and COUNT, the
# number of nodes, are in the environment.
set -eu
umask 022
trap 'exit 0' TERM
taps=$2
fail() {
	echo "$*" >&2
	exit 1
}
# The /proc of outside still: there this process has the id by which it can be ended.
read -r pid _ </proc/self/stat
echo "$pid" >head.pid
mount -t proc proc /proc

# Before anything is covered: the cache or the initramfs may lie below it. The lab's directory
# may as well, but is this one's working directory, which -c leaves as it is.
mount --bind "$TOOLS" /mnt
exec 3<"$INITRAMFS"
mount -t tmpfs -o size=8m,mode=755 run /run
mkdir -p /run/lab /run/etc /run/rpcbind /run/ganesha
mount -c --bind . /run/lab
mount -t tmpfs -o size=8m,mode=755 lib /var/lib
mkdir -p /var/lib/nfs/ganesha
mount -t tmpfs -o size=256m,mode=755 srv /srv
# The little that the servers read: the machine's own settings are no business of theirs.
# rpcbind wants its user; the package's script, which makes it, was not run.
for file in group ld.so.cache nsswitch.conf passwd protocols services netconfig; do
	[ ! -e "/etc/$file" ] || cp "/etc/$file" /run/etc/
done
[ -e /run/etc/netconfig ] || cp /mnt/etc/netconfig /run/etc/
grep -q '^_rpc:' /run/etc/passwd ||
	echo '_rpc:x:65533:65534::/run/rpcbind:/usr/sbin/nologin' >>/run/etc/passwd
# Where Ganesha looks for what is mounted.
ln -s /proc/self/mounts /run/etc/mtab
mount --bind /run/etc /etc

ip link set lo up
ip link add br0 type bridge
ip addr add "$ADDRESS/24" dev br0
ip link set br0 up
number=0
while [ "$number" -lt "$COUNT" ]; do
	number=$((number + 1))
	ip tuntap add dev "$taps$number" mode tap
	ip link set "$taps$number" master br0 up
done

# A root: the lab's userland, and over it what was rendered.
place=/srv/krg-diskless
mkdir -p "$place/root"
(cd "$place/root" && gzip -dc <&3 | cpio -idm --quiet)
exec 3<&-
cp -RP served/root/. "$place/root/"
mkdir -m 700 "$place/root/root/.ssh"
mv "$place/root/etc/dropbear/authorized_keys" "$place/root/root/.ssh/"
cp -RP served/tftp "$place/"
cp /mnt/usr/lib/PXELINUX/pxelinux.0 /mnt/usr/lib/syslinux/modules/bios/ldlinux.c32 "$place/tftp/"
cp served/dnsmasq.conf "$place/"

# In the background once it listens.
dnsmasq --user=root --conf-file="$place/dnsmasq.conf" --pid-file=/run/dnsmasq.pid \
	--log-facility=/run/lab/dnsmasq.log
if [ "$TOOLS" = / ]; then
	cp served/ganesha.conf /run/ganesha.conf
else
	library=$(set -- /mnt/usr/lib/*/ganesha; echo "${1%/ganesha}")
	plugins="Plugins_Dir = \"$library/ganesha\";"
	sed "s,^NFS_CORE_PARAM {,& $plugins," served/ganesha.conf >/run/ganesha.conf
	LD_LIBRARY_PATH=$library:/mnt/usr/lib/ganesha:/mnt${library#/mnt/usr}
	export LD_LIBRARY_PATH
fi
for rpcbind in /mnt/sbin/rpcbind /mnt/usr/sbin/rpcbind; do
	[ ! -x "$rpcbind" ] || break
done
"$rpcbind"
/mnt/usr/bin/ganesha.nfsd -F -L /run/lab/ganesha.log -p /run/ganesha.pid -N NIV_EVENT \
	-f /run/ganesha.conf &
ganesha=$!
serving() {
	kill -s 0 "$(cat /run/dnsmasq.pid)" && kill -s 0 "$ganesha"
}
until /mnt/usr/bin/rpcinfo -t "$ADDRESS" 100005 3 >/dev/null 2>&1; do
	serving || fail "NFS-Ganesha ended"
	sleep 0.2
done
# It serves without its exports too.
! grep -q 'No export entries found' ganesha.log || fail "NFS-Ganesha exports nothing"
: >head.ready
while serving 2>/dev/null; do
	sleep 1 &
	wait "$!"
done
fail "a server ended"
