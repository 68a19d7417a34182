# SPDX-License-Identifier: GPL-2.0-or-later
# Run as the first process of a host's namespaces: builds its root on a tmpfs, starts sshd
# there, and stays until the test closes the pipe. ROOT, FILES, NAME and BUSYBOX are given.
set -e
ip link set lo up
hostname "$NAME" 2>/dev/null || true
mount -t tmpfs -o size=256m,mode=755 root "$ROOT"
cd "$ROOT"
mkdir usr lib proc dev sys tmp run run/sshd var var/log
chmod 1777 tmp
mount --rbind /usr usr
mount -o remount,bind,ro usr
mount -t tmpfs -o size=64m,mode=755 local usr/local
ln -s usr/bin bin
ln -s usr/sbin sbin
# A real directory with links, so that lib/modules can be private without a mount point
# having to exist on the machine.
for entry in /usr/lib/*; do
    case ${entry##*/} in
        modules) ;;
        *) ln -s "../usr/lib/${entry##*/}" "lib/${entry##*/}" ;;
    esac
done
for entry in lib32 lib64 libx32; do
    [ -d "/usr/$entry" ] && ln -s "usr/$entry" "$entry"
done
mkdir boot
mount -t tmpfs -o size=32m,mode=755 boot boot
mkdir lib/modules
mount -t tmpfs -o size=96m,mode=755 modules lib/modules
cp -a "$FILES/." .
chown -R 1000:1000 home/user
chmod 755 home home/user root
chmod 700 home/user/.ssh root/.ssh
mount -t proc proc proc
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/tty c 5 0
mknod -m 444 dev/random c 1 8
mknod -m 444 dev/urandom c 1 9
if [ -n "$BUSYBOX" ]; then
    box=$(command -v busybox)
    mkdir dev/box
    cp "$box" dev/box/busybox
    # Nothing is found but sshd and busybox's own commands.
    cp usr/sbin/sshd dev/box/sshd
    mount -t tmpfs -o size=8m,mode=755 box usr/bin
    mount -t tmpfs -o size=8m,mode=755 box usr/sbin
    cp dev/box/busybox usr/bin/
    cp dev/box/sshd usr/sbin/
    chroot . /usr/bin/busybox --install -s /usr/bin
fi
cat >etc/ssh/sshd_config <<END
Port 22
HostKey /etc/ssh/host_key
PidFile /run/sshd.pid
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
END
chroot . /usr/sbin/sshd -D -e </dev/null >&2 &
echo ready
cat >/dev/null
