# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts to deploy to: real sshd servers, each with a network, a process table and a root of
its own.

Nothing has a name outside: namespaces are held by their first process, which ends when
the pipe from the test closes, and the kernel ends everything inside with it. So two
runs can go side by side and a killed run leaves nothing. Each root is a tmpfs with the
machine's /usr mounted read-only; /boot, /etc, /lib/modules and /usr/local are private.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision import artifacts
from provision.module import Module, as_json

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TOOLS = ("unshare", "nsenter", "ip", "mount", "busybox", "ssh-keygen", "setpriv")

MENU_LST = """\
# menu.lst - an admin's file, with a tab\there and a latin-1 \xe9
default\t\t0
timeout=5
fallback\t1
password --md5 $1$x$y

### BEGIN AUTOMAGIC KERNELS LIST
## ## Start Default Options ##
# kopt=root=/dev/hda1 ro
# groot=(hd0,0)

title\t\tDebian GNU/Linux, kernel 2.6.26-2-686
root\t\t(hd0,0)
kernel\t\t/boot/vmlinuz-2.6.26-2-686 root=/dev/hda1 ro quiet
initrd\t\t/boot/initrd.img-2.6.26-2-686

title\t\tDebian GNU/Linux, kernel 2.6.26-2-686 (single-user mode)
root\t\t(hd0,0)
kernel\t\t/boot/vmlinuz-2.6.26-2-686 root=/dev/hda1 ro single
initrd\t\t/boot/initrd.img-2.6.26-2-686

### END DEBIAN AUTOMAGIC KERNELS LIST

title\t\tAnother system
rootnoverify\t(hd0,1)
chainloader\t+1
""".encode("latin-1")


def missing() -> str | None:
    """Say why hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root for network namespaces: sudo ./dev test"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not Path("/usr/sbin/sshd").exists():
        absent.append("sshd")
    if absent:
        return (
            f"needs {', '.join(absent)}: "
            "apt-get install openssh-server iproute2 util-linux busybox-static"
        )
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "probe0", "type",
         "veth", "peer", "name", "probe1"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if probe.returncode:
        return f"network namespaces cannot be made here: {probe.stderr.strip()}"
    return None


def wait_for(what: str, test: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until ``test`` is true, failing after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


class Space:
    """A process holding namespaces of its own until its standard input closes."""

    def __init__(self, script: str, environment: dict[str, str], log: Path) -> None:
        self._log = log.open("wb")
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL",
             "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        if ready != b"ready\n":
            self.close()
            raise RuntimeError(f"no host: {log.read_text()}")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int(children.read_text().split()[0])

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *argv]

    def run(self, *argv: str) -> None:
        subprocess.run(self.command(*argv), check=True, capture_output=True)

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


@dataclass
class Host:
    """One sshd host; ``root`` is its root directory seen from here."""

    name: str
    number: int
    address: str
    space: Space
    root: Path
    host_key: str
    directory: Path

    def path(self, name: str) -> Path:
        """Return the host's file ``name`` (absolute there) as a path here."""
        return self.root / name.lstrip("/")

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Return mode and content of everything a deploy may touch."""
        found: dict[str, tuple[int, bytes]] = {}
        for top in ("boot", "etc", "lib/modules", "usr/local", "var"):
            for path in sorted((self.root / top).rglob("*")):
                status = path.lstat()
                if path.is_symlink():
                    content = str(path.readlink()).encode()
                else:
                    content = path.read_bytes() if path.is_file() else b""
                found[str(path.relative_to(self.root))] = (status.st_mode, content)
        return found

    def stages(self) -> list[str]:
        """Return what an upload left behind."""
        tops = ("boot", "boot/grub", "etc", "lib/modules", "usr/local")
        return [str(p) for top in tops for p in (self.root / top).glob(".krg-provision-*")]

    def mount(self, place: str, options: str) -> None:
        """Mount an empty file system of a given size over a directory of the host."""
        where = str(self.directory / "root") + place
        subprocess.run(
            ["nsenter", f"--mount=/proc/{self.space.pid}/ns/mnt", "mount", "-t", "tmpfs",
             "-o", options, "small", where],
            check=True,
        )  # fmt: skip

    def stop_network(self) -> None:
        self.space.run("ip", "link", "set", "eth0", "down")


@dataclass
class Hosts:
    """A client network, the hosts in it, and a cluster file that names them."""

    directory: Path
    client: Space
    hosts: list[Host] = field(default_factory=list)
    operator: str = "home"

    @property
    def cluster(self) -> Path:
        return self.directory / "cluster.toml"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def key(self) -> Path:
        return self.directory / "key"

    def write(self, extra: str = "", node_extra: str = "") -> Path:
        """Write known_hosts and cluster.toml anew and return the latter."""
        self.known_hosts.write_text(
            "".join(f"{host.address} {host.host_key}\n" for host in self.hosts)
        )
        text = f"session = 7\nnbmin = {min(2, len(self.hosts))}\n{extra}\n"
        text += f'[defaults]\nkey = "{self.key}"\n'
        text += 'known_hosts = "known_hosts"\ninterface = "eth0"\n'
        for host in self.hosts:
            text += f'\n[[node]]\nname = "{host.name}"\nid = {host.number}\n'
            text += f'address = "{host.address}"\n{node_extra}'
        self.cluster.write_text(text)
        return self.cluster

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line of krg-provision inside the client's network."""
        return self.client.command(sys.executable, "-m", "provision", *arguments)

    def environment(self) -> dict[str, str]:
        # A home of its own: no agent, keys, ssh configuration or known hosts of the tester. No
        # width of a screen either: pytest-xdist gives its workers one of 80 columns, and rich
        # believes that before it asks the terminal.
        home = self.directory / self.operator
        home.mkdir(exist_ok=True)
        kept = {
            k: v
            for k, v in os.environ.items()
            if k not in ("SSH_AUTH_SOCK", "NO_COLOR", "XDG_STATE_HOME", "COLUMNS", "LINES")
        }
        return {**kept, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run krg-provision to its end."""
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def ssh(self, host: Host, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host with ssh itself."""
        return subprocess.run(
            self.client.command(
                "ssh", "-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}",
                "-o", "BatchMode=yes", f"root@{host.address}", command,
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start krg-provision in a process group of its own."""
        return subprocess.Popen(
            self.argv(*arguments),
            env=self.environment(),
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        for host in self.hosts:
            host.space.close()
        self.client.close()


CLIENT = """
set -e
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
ip address add 10.99.255.254/16 dev br0
echo ready
exec cat >/dev/null
"""


def make_hosts(directory: Path, count: int, *, busybox: Sequence[int] = ()) -> Hosts:
    """Start ``count`` hosts; those in ``busybox`` have its commands instead of coreutils."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")], check=True
    )
    made = Hosts(directory, Space(CLIENT, {}, directory / "client.log"))
    try:
        for number in range(1, count + 1):
            made.hosts.append(_host(made, number, number in busybox))
    except BaseException:
        made.close()
        raise
    made.write()
    return made


def _host(made: Hosts, number: int, busybox: bool) -> Host:
    name, address = f"krg{number}", f"10.99.{number >> 8}.{number & 255}"
    directory = made.directory / name
    files = directory / "files"
    (files / "etc/ssh").mkdir(parents=True)
    (files / "boot/grub").mkdir(parents=True)
    # Locks and journals come and go in it.
    (files / "var/lib/krg-provision").mkdir(parents=True)
    (files / "root/.ssh").mkdir(parents=True, mode=0o700)
    key = files / "etc/ssh/host_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True
    )
    (files / "root/.ssh/authorized_keys").write_text(made.key.with_suffix(".pub").read_text())
    (files / "boot/grub/menu.lst").write_bytes(MENU_LST)
    (files / "boot/grub/menu.lst").chmod(0o600)
    for level in "0123456S":
        (files / f"etc/rc{level}.d").mkdir()
    (files / "etc/init.d").mkdir()
    (files / "etc/default").mkdir()
    (files / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
        "user:x:1000:1000::/home/user:/bin/sh\n"
    )
    (files / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\nuser:x:1000:\n")
    (files / "home/user/.ssh").mkdir(parents=True)
    (files / "home/user/.ssh/authorized_keys").write_text(made.key.with_suffix(".pub").read_text())
    (files / "etc/hostname").write_text(name + "\n")
    root = directory / "root"
    root.mkdir()
    space = Space(
        (HERE / "host.sh").read_text(),
        {"ROOT": str(root), "FILES": str(files), "NAME": name, "BUSYBOX": "yes" if busybox else ""},
        directory / "log",
    )
    try:
        made.client.run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0",
                        "netns", str(space.pid))  # fmt: skip
        made.client.run("ip", "link", "set", f"v{number}", "master", "br0", "up")
        space.run("ip", "address", "add", f"{address}/16", "dev", "eth0")
        space.run("ip", "link", "set", "eth0", "up")
        inside = Path(f"/proc/{space.pid}/root") / str(root).lstrip("/")
        wait_for(f"sshd on {name}", (inside / "run/sshd.pid").exists)
    except BaseException:
        space.close()
        raise
    public = key.with_suffix(".pub").read_text().rsplit(" ", 1)[0]
    return Host(name, number, address, space, inside, public, directory)


RELEASE = "2.6.20-krg-test1"
CONFIG = "CONFIG_KERRIGHED=y\nCONFIG_KRG_AUTONODEID=y\n"


def make_build(
    directory: Path,
    *,
    bulk: int = 0,
    config: str = CONFIG,
    vmlinux: bytes = b"not deployed",
    release: str = RELEASE,
    module: Module | None = None,
) -> Path:
    """Write a small build: a kernel, some modules, tools, and ``bulk`` MiB that do not compress.

    :param module: what it says of its module; None: nothing, so that it is Kerrighed's.
    """
    modules = directory / "lib/modules" / release
    (modules / "extra").mkdir(parents=True)
    (modules / "kernel/drivers/net").mkdir(parents=True)
    (directory / "tools/bin").mkdir(parents=True)
    (directory / "tools/lib").mkdir(parents=True)
    (directory / "vmlinuz").write_bytes(os.urandom(20_000))
    (directory / "vmlinux").write_bytes(vmlinux)
    (directory / "System.map").write_text("00000000 A start\n")
    (directory / "config").write_text(config)
    (modules / "modules.dep").write_text("extra/kerrighed.ko:\n")
    (modules / "extra/kerrighed.ko").write_bytes(os.urandom(9_000))
    (modules / "build").symlink_to("/nowhere/of/the/builder")
    for number in range(30):
        (modules / f"kernel/drivers/net/net{number}.ko").write_bytes(b"%d\n" % number * 100)
    for number in range(bulk):
        (modules / f"kernel/drivers/net/bulk{number:03}.ko").write_bytes(os.urandom(1 << 20))
    (directory / "tools/bin/krgadm").write_text("#!/bin/sh\necho krgadm\n")
    (directory / "tools/bin/krgadm").chmod(0o755)
    (directory / "tools/bin/migrate").symlink_to("krgadm")
    (directory / "tools/lib/libkerrighed.a").write_bytes(b"!<arch>\n")
    artifacts.write_manifest(
        directory,
        {"release": "kerrighed-test", "arch": "x86_64", "kernel_release": release,
         "build_id": "test1", **({} if module is None else {"module": as_json(module)})},
    )  # fmt: skip
    return directory
