# SPDX-License-Identifier: GPL-2.0-or-later
"""Our packages in a real Debian: dpkg, the kernel's hooks, initramfs-tools, GRUB."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import debian_root
import full_build
import mini
import pytest
from conftest import ROOT
from debian_root import Root

from provision import artifacts
from provision.artifacts import Artifacts
from provision.repo_serve import serving

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb: install dpkg"),
]
INCLUDE = ("initramfs-tools", "linux-base", "kmod", "zstd")
# What dpkg, apt and others write about themselves.
_OWN = re.compile(r"/(var/(lib|log|cache)|run|tmp|proc|sys|dev|root)(/.*)?|/etc/ld\.so\.cache")
_HOOK = """#!/bin/sh
echo "{kind} $* DEB_MAINT_PARAMS=$DEB_MAINT_PARAMS" >>/var/log/hooks
"""


def krg(home: Path, *args: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "provision", *map(str, args)],
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def builds(home: Path) -> list[Artifacts]:
    """Two builds of the small release that differ in their configuration."""
    release = mini.make(home / "mini")
    return [
        full_build.make(lambda *a: krg(home, *a), release, home / f"build{n}", *sets)
        for n, sets in enumerate([(), ("NET=y",)])
    ]


def packages(home: Path, build: Artifacts, revision: int = 1) -> dict[str, str]:
    """Make packages; return the file of each by the start of its name."""
    out = home / f"debs-{build.build_id}-{revision}"
    krg(home, "package", "-q", build.directory, "-o", out, "--revision", revision)
    ids = ("linux-headers", "kerrighed-modules", "kerrighed-tools")
    files = {name: next(out.glob(f"{name}*")) for name in ids}
    files["linux-image"] = next(p for p in out.glob("linux-image*") if "-dbg_" not in p.name)
    files["linux-image-dbg"] = next(out.glob("linux-image*-dbg_*"))
    return {name: str(path) for name, path in files.items()}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Root]:
    with debian_root.root(tmp_path, include=INCLUDE) as made:
        for kind in ("postinst", "prerm", "postrm"):
            hook = made.file(f"/etc/kernel/{kind}.d/test")
            hook.parent.mkdir(parents=True, exist_ok=True)
            hook.write_text(_HOOK.format(kind=kind))
            hook.chmod(0o755)
        yield made


def dpkg(node: Root, *args: str, status: int = 0, **env: str) -> str:
    """Run dpkg in the root with package files from outside."""
    words = [f"/tmp/{Path(word).name}" if word.endswith(".deb") else word for word in args]
    for word in args:
        if word.endswith(".deb"):
            shutil.copyfile(word, node.file(f"/tmp/{Path(word).name}"))
    done = node.run(["dpkg", *words], env=env)
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    return said


def listing(node: Root) -> set[str]:
    found = {"/" + str(path.relative_to(node.path)) for path in node.path.rglob("*")}
    return {name for name in found if not _OWN.fullmatch(name)}


def state(node: Root, name: str) -> str:
    return node.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", name]).stdout


def test_install_upgrade_remove_purge(home: Path, builds: list[Artifacts], node: Root) -> None:
    before = listing(node)
    one, two = (packages(home, build) for build in builds)
    release, other = (build.kernel_release for build in builds)
    every = [one[name] for name in one]
    dpkg(node, "-i", *every)
    for name in (f"/boot/vmlinuz-{release}", f"/boot/initrd.img-{release}",
                 f"/lib/modules/{release}/modules.dep", "/usr/bin/krgadm"):  # fmt: skip
        assert node.file(name).exists(), name
    assert "extra/kerrighed.ko:" in node.file(f"/lib/modules/{release}/modules.dep").read_text()
    found = node.run(["modinfo", "-k", release, "-F", "filename", "kerrighed"], check=True)
    assert found.stdout == f"/lib/modules/{release}/extra/kerrighed.ko\n"
    hooks = node.file("/var/log/hooks").read_text()
    assert f"postinst {release} /boot/vmlinuz-{release} DEB_MAINT_PARAMS='configure' ''\n" == hooks
    assert node.run(["dpkg", "--verify"]).stdout == ""
    assert node.run(["ls", "/etc/rc2.d"]).stdout.count("kerrighed") == 1
    status = node.run(["/etc/init.d/kerrighed", "status"])
    assert status.returncode == 3 and "not loaded" in status.stdout

    # A second build beside it, the first one whole.
    dpkg(node, "-i", two["linux-image"], two["kerrighed-modules"])
    for kernel in (release, other):
        assert node.file(f"/boot/initrd.img-{kernel}").exists()
        assert node.file(f"/lib/modules/{kernel}/extra/kerrighed.ko").exists()

    # Upgrade and downgrade; what the administrator changed stays.
    settings = node.file("/etc/default/kerrighed")
    settings.write_text(settings.read_text().replace("ENABLE=false", "ENABLE=true"))
    nodes = node.file("/etc/kerrighed_nodes")
    nodes.write_text("session=7\nnbmin=3\n")
    newer = packages(home, builds[0], revision=2)
    dpkg(node, "-i", *(newer[name] for name in newer))
    version = node.run(["dpkg-query", "-W", "-f", "${Version}", "kerrighed-tools"]).stdout
    assert version == f"2.6.20-2+{builds[0].build_id}"
    assert "ENABLE=true" in settings.read_text() and nodes.read_text() == "session=7\nnbmin=3\n"
    said = dpkg(node, "-i", *every)
    assert "downgrading" in said and "ENABLE=true" in settings.read_text()
    dpkg(node, "-i", *every)

    # Away, in the order in which dpkg is told, with the settings kept until the purge.
    names = [f"kerrighed-modules-{release}", f"linux-headers-{release}",
             f"linux-image-{release}-dbg", f"linux-image-{release}", "kerrighed-tools"]  # fmt: skip
    dpkg(node, "-r", *names)
    assert not node.file(f"/boot/vmlinuz-{release}").exists()
    assert not node.file(f"/lib/modules/{release}").exists()
    assert not node.file(f"/boot/initrd.img-{release}").exists()
    assert node.file(f"/boot/initrd.img-{other}").exists()
    assert (
        "ENABLE=true" in settings.read_text() and state(node, "kerrighed-tools") == "config-files"
    )
    dpkg(node, "-i", one["linux-image"])
    assert node.file(f"/boot/initrd.img-{release}").exists()
    dpkg(node, "-P", *names, f"kerrighed-modules-{other}", f"linux-image-{other}")
    assert listing(node) == before


def test_apt_wants_the_kernel_of_the_module(
    home: Path, builds: list[Artifacts], node: Root
) -> None:
    files = packages(home, builds[0])
    release = builds[0].kernel_release
    said = dpkg(node, "-i", files["kerrighed-modules"], status=1)
    assert f"depends on linux-image-{release} (= 2.6.20-1)" in said
    dpkg(node, "-i", files["linux-image"])
    dpkg(node, "--configure", "-a")
    assert state(node, f"kerrighed-modules-{release}") == "installed"


def of_this_kernel(build: Artifacts, where: Path) -> Artifacts:
    """Return the build as if it were of the kernel that runs here."""
    running = os.uname().release
    shutil.copytree(build.directory, where, symlinks=True)
    (where / f"lib/modules/{build.kernel_release}").rename(where / f"lib/modules/{running}")
    manifest = where / artifacts.MANIFEST
    manifest.write_text(manifest.read_text().replace(build.kernel_release, running))
    return artifacts.load(where)


@pytest.mark.parametrize("linux_base", [True, False])
def test_the_running_kernel_stays(
    home: Path, builds: list[Artifacts], node: Root, tmp_path: Path, linux_base: bool
) -> None:
    running = os.uname().release
    if not re.fullmatch(r"[a-z0-9+.-]+", running):
        pytest.skip(f"this machine's kernel is called {running}, which no package can be")
    build = of_this_kernel(builds[0], tmp_path / "running")
    dpkg(node, "-i", packages(tmp_path, build)["linux-image"])
    if not linux_base:
        dpkg(node, "--force-depends", "-P", "linux-base")
    said = dpkg(node, "-r", f"linux-image-{running}", status=1)
    assert "it is the kernel that runs: boot another one first" in said
    assert state(node, f"linux-image-{running}") == "installed"
    assert node.file(f"/boot/vmlinuz-{running}").exists()
    dpkg(node, "-r", f"linux-image-{running}", REMOVE_RUNNING_KERNEL="yes")
    assert not node.file(f"/boot/vmlinuz-{running}").exists()


@pytest.mark.parametrize("kind", ["postinst", "prerm", "postrm"])
def test_interrupted_and_run_again(
    home: Path, builds: list[Artifacts], node: Root, kind: str
) -> None:
    """dpkg is killed while a script of ours runs; run again, it comes to the same end."""
    files = packages(home, builds[0])
    release = builds[0].kernel_release
    image = f"linux-image-{release}"
    before = listing(node)
    if kind != "postinst":
        dpkg(node, "-i", files["linux-image"])
    killer = node.file(f"/etc/kernel/{kind}.d/00-killer")
    # Of all processes in this root: they are in a process namespace of their own.
    killer.write_text("#!/bin/sh\nrm -f /etc/kernel/*.d/00-killer\nkill -9 -1\n")
    killer.chmod(0o755)
    shutil.copyfile(files["linux-image"], node.file("/tmp/image.deb"))
    argv = ["dpkg", "-i", "/tmp/image.deb"] if kind == "postinst" else ["dpkg", "-P", image]
    assert node.run(argv).returncode != 0 and not killer.exists()
    if kind == "postinst":
        node.run(["dpkg", "--configure", "-a"], check=True)
        assert state(node, image) == "installed"
        assert node.file(f"/boot/initrd.img-{release}").exists()
        node.run(["dpkg", "-P", image], check=True)
    else:
        node.run(["dpkg", "-P", image], check=True)
    assert listing(node) == before


def test_without_the_hooks_the_tools_are_called(
    home: Path, builds: list[Artifacts], node: Root
) -> None:
    """As on systems from before /etc/kernel had hooks of initramfs-tools and GRUB."""
    release = builds[0].kernel_release
    for hook in node.path.glob("etc/kernel/*.d/*"):
        hook.unlink()
    grub = node.file("/usr/sbin/update-grub")
    grub.write_text("#!/bin/sh\nls /boot/vmlinuz-* >/boot/grub/menu.lst\n")
    grub.chmod(0o755)
    menu = node.file("/boot/grub/menu.lst")
    menu.parent.mkdir()
    before = listing(node)
    image = packages(home, builds[0])["linux-image"]
    dpkg(node, "-i", image)
    assert node.file(f"/boot/initrd.img-{release}").exists() and not menu.exists()
    menu.write_text("")
    dpkg(node, "-i", image)
    assert menu.read_text() == f"/boot/vmlinuz-{release}\n"
    dpkg(
        node, "-P", f"linux-image-{release}", status=1
    )  # ls finds no kernel: grub's failure counts
    dpkg(node, "-P", f"linux-image-{release}", status=1)
    grub.write_text("#!/bin/sh\n: >/boot/grub/menu.lst\n")
    dpkg(node, "-P", f"linux-image-{release}")
    assert menu.read_text() == ""
    menu.unlink()
    assert listing(node) == before


def test_no_initramfs_where_none_is_wanted(home: Path, builds: list[Artifacts], node: Root) -> None:
    release = builds[0].kernel_release
    dpkg(node, "-i", packages(home, builds[0])["linux-image"], INITRD="No")
    assert not node.file(f"/boot/initrd.img-{release}").exists()


def kernels(node: Root) -> list[str]:
    """Return the kernels that GRUB's menu boots, whichever GRUB it is."""
    for name in ("/boot/grub/grub.cfg", "/boot/grub/menu.lst"):
        path = node.file(name)
        if path.is_file():
            found = re.findall(
                r"^\s*(?:linux|kernel)\s+/boot/vmlinuz-(\S+)", path.read_text(), re.M
            )
            return list(dict.fromkeys(found))
    return []


@pytest.mark.parametrize("loader", ["grub2-common", "grub-legacy"])
def test_the_boot_menu_follows(
    home: Path, builds: list[Artifacts], tmp_path: Path, loader: str
) -> None:
    """GRUB's own update-grub writes the menu, and GRUB's own checkers accept it."""
    include = ("initramfs-tools", "kmod", "zstd", loader)
    with debian_root.root(tmp_path, include=include, disk=True) as node:
        node.file("/boot/grub").mkdir(exist_ok=True)
        if loader == "grub-legacy":
            node.file("/boot/grub/menu.lst").write_text("default 0\ntimeout 5\n")
            node.file("/boot/grub/device.map").write_text(f"(hd0) {node.devices[0]}\n")
        else:
            node.file("/boot/grub/grub.cfg").write_text("")
        for build in builds:
            dpkg(node, "-i", packages(home, build)["linux-image"])
        releases = {build.kernel_release for build in builds}
        assert set(kernels(node)) == releases
        if loader == "grub2-common":
            node.run(["grub-script-check", "/boot/grub/grub.cfg"], check=True)
        dpkg(node, "-P", f"linux-image-{builds[0].kernel_release}")
        assert kernels(node) == [builds[1].kernel_release]


def test_from_the_build_to_apt(
    home: Path, builds: list[Artifacts], node: Root, tmp_path: Path
) -> None:
    """package, repo add, repo publish; then apt-get as any node does it, over http."""
    packages(home, builds[0])
    made = home / f"debs-{builds[0].build_id}-1"
    place = tmp_path / "repo"
    krg(home, "repo", "add", place, made)
    with serving(place / "www") as (url, _):
        krg(home, "repo", "publish", place, "--url", url)
        for path in node.path.glob("etc/apt/sources.list*/*"):
            path.unlink()
        node.file("/etc/apt/sources.list").write_text("")
        for name, folder in (("krg.sources", "sources.list.d"),
                             ("krg-archive-keyring.gpg", "keyrings")):  # fmt: skip
            shutil.copyfile(place / "www" / name, node.file(f"/etc/apt/{folder}/{name}"))
        node.run(["apt-get", "update"], check=True)
        release = builds[0].kernel_release
        done = node.run(["apt-get", "install", "-y", f"kerrighed-modules-{release}"], check=True)
    # The tools come as recommended, the kernel as a dependency.
    for name in (f"linux-image-{release}", f"kerrighed-modules-{release}", "kerrighed-tools"):
        assert state(node, name) == "installed", done.stdout
    assert node.file(f"/boot/initrd.img-{release}").exists()
