# SPDX-License-Identifier: GPL-2.0-or-later
# A head node and its nodes, run as the first process of namespaces of its own (network, mounts,
# processes): does what README.txt of "diskless render" says, on a network that ends here, and
# stays until the test closes the pipe. Everything it started ends with it.
# HEAD (what was rendered), ASIDE (Debian packages unpacked), INITRAMFS, ADDRESS and NODES
# (MACs) are given; the working directory is the test's own.
set -eu
export LD_LIBRARY_PATH="$ASIDE/usr/lib/x86_64-linux-gnu:$ASIDE/usr/lib/ganesha:$ASIDE/lib/x86_64-linux-gnu"
PLACE=/srv/krg-diskless

mount -t tmpfs -o size=128m,mode=755 srv /srv
mount -t tmpfs -o size=8m,mode=755 run /run
mount -t tmpfs -o size=8m,mode=755 lib /var/lib
mkdir -p /run/rpcbind /run/ganesha /var/lib/nfs/ganesha "$PLACE/root"
# An /etc of its own: the machine's exports are no business of ours.
mkdir etc
cp -a /etc/. etc/
mount --bind etc /etc
rm -rf /etc/exports /etc/exports.d
# rpcbind wants its user; the package's script, which makes it, was not run.
echo '_rpc:x:65533:65534::/run/rpcbind:/usr/sbin/nologin' >>/etc/passwd

ip link set lo up
ip link add br0 type bridge
ip addr add "$ADDRESS/24" dev br0
ip link set br0 up

# A root: the lab's userland, and over it what was rendered.
(cd "$PLACE/root" && gzip -dc "$INITRAMFS" | cpio -idm --quiet)
cp -RP "$HEAD/root/." "$PLACE/root/"
cp -RP "$HEAD/tftp" "$PLACE/"
cp "$ASIDE/usr/lib/PXELINUX/pxelinux.0" "$PLACE/tftp/"
cp "$ASIDE/usr/lib/syslinux/modules/bios/ldlinux.c32" "$PLACE/tftp/"
cp "$HEAD/dnsmasq.conf" "$PLACE/"

# The kernel's server need not be there for its program to read the file and say what it read.
mkdir /etc/exports.d
: >/etc/exports
cp "$HEAD/krg-diskless.exports" /etc/exports.d/
"$ASIDE/usr/sbin/exportfs" -ra
"$ASIDE/usr/sbin/exportfs" -s >exports.seen

# Both go into the background once they listen.
dnsmasq --user=root --conf-file="$PLACE/dnsmasq.conf" --pid-file --log-facility="$PWD/dnsmasq.log"
"$ASIDE/sbin/rpcbind"
plugins="Plugins_Dir = \"$ASIDE/usr/lib/x86_64-linux-gnu/ganesha\";"
sed "s,^NFS_CORE_PARAM {,& $plugins," "$HEAD/ganesha.conf" >ganesha.conf
"$ASIDE/usr/bin/ganesha.nfsd" -F -L "$PWD/ganesha.log" -p /run/ganesha.pid -N NIV_EVENT \
    -f "$PWD/ganesha.conf" &
tries=0
until "$ASIDE/usr/sbin/rpcinfo" -t "$ADDRESS" 100005 3 >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { echo "NFS-Ganesha does not serve" >&2; exit 1; }
    sleep 0.2
done
unset LD_LIBRARY_PATH

number=0
for mac in $NODES; do
    number=$((number + 1))
    mkdir "node$number"
    ip tuntap add dev "tap$number" mode tap
    ip link set "tap$number" master br0 up
    # The card's ROM is iPXE, which loads pxelinux; there is no disk.
    (cd "node$number" && qemu-system-x86_64 -M pc -accel tcg -cpu qemu64 -m 192 -smp 1 \
        -display none -monitor none -boot n -no-reboot -daemonize \
        -netdev "tap,id=net,ifname=tap$number,script=no,downscript=no" \
        -device "e1000,netdev=net,mac=$mac" \
        -chardev file,id=console,path=console.log -serial chardev:console \
        -chardev socket,id=agent,path=agent.sock,server=on,wait=off -serial chardev:agent)
done
echo ready
cat >/dev/null
