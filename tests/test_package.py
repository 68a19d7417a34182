# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision package: what goes in, the same bytes every time, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import full_build
import lintian
import mini
import pytest
from conftest import ROOT, Command
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import artifacts, module, node_packages, package, package_plan
from provision import release as releases
from provision.artifacts import Artifacts
from provision.data import data_dir, render
from provision.deb import NAME, Stage, compressed
from provision.errors import InputError

IDS = ("linux-image", "linux-headers", "modules", "kerrighed-tools", "linux-image-dbg")
pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="needs dpkg-deb: apt-get install dpkg"
)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("made")

    def krg(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "provision", *map(str, args)],
            env={**os.environ, "HOME": str(where), "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip

    return full_build.make(krg, mini.make(where / "mini"), where / "build").directory


@pytest.fixture
def build(made_once: Path, tmp_path: Path) -> Artifacts:
    shutil.copytree(made_once, tmp_path / "build", symlinks=True)
    return artifacts.load(tmp_path / "build")


def run(*argv: object) -> str:
    return subprocess.run(
        [str(a) for a in argv],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout


def contents(deb: Path) -> dict[str, str]:
    """Return mode, owner and size-less rest of each member by name."""
    lines = run("dpkg-deb", "-c", deb).splitlines()
    return {
        line.split()[5].removeprefix("./"): f"{line.split()[0]} {line.split()[1]}" for line in lines
    }


def test_the_packages_of_a_build(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    out = tmp_path / "debs"
    done = krg("package", build.directory, "-o", out, "--format", "json")
    assert done.returncode == 0, done.stderr
    release = build.kernel_release
    entries = {e["package"]: e for e in json.loads(done.stdout)["packages"]}
    assert set(entries) == {
        f"linux-image-{release}", f"linux-headers-{release}", f"linux-image-{release}-dbg",
        f"kerrighed-modules-{release}", "kerrighed-tools",
    }  # fmt: skip
    assert json.loads((out / "packages.json").read_text())["packages"] == list(entries.values())
    for entry in entries.values():
        deb = out / entry["file"]
        assert package.digest(deb) == entry["sha256"] and deb.stat().st_size == entry["size"]
        # What dpkg of 2009 reads.
        assert run("ar", "t", deb).split() == ["debian-binary", "control.tar.gz", "data.tar.gz"]
        assert run("ar", "p", deb, "debian-binary") == "2.0\n"
        assert run("dpkg-deb", "-f", deb, "Version").strip() == entry["version"]
        files = contents(deb)
        assert all(" root/root" in rest for rest in files.values())
        assert f"usr/share/doc/{entry['package']}/copyright" in files
    image = contents(out / entries[f"linux-image-{release}"]["file"])
    assert image[f"boot/vmlinuz-{release}"].startswith("-rw-r--r--")
    assert image[f"boot/System.map-{release}"].startswith("-rw-------")
    assert f"lib/modules/{release}/kernel/drivers/user.ko" in image
    assert not [n for n in image if "extra" in n or "modules." in n]
    module = contents(out / entries[f"kerrighed-modules-{release}"]["file"])
    assert f"lib/modules/{release}/extra/kerrighed.ko" in module
    tools = contents(out / entries["kerrighed-tools"]["file"])
    assert tools["usr/bin/krgadm"].startswith("-rwxr-xr-x")
    assert "usr/share/man/man1/krgadm.1.gz" in tools and "usr/lib/libkerrighed.a" in tools
    assert tools["etc/init.d/kerrighed"].startswith("-rwxr-xr-x")
    assert build.build_id in entries["kerrighed-tools"]["version"]
    headers = out / entries[f"linux-headers-{release}"]["file"]
    assert f"usr/src/linux-headers-{release}/scripts/answer" in contents(headers)
    assert "libc6 (>=" in run("dpkg-deb", "-f", headers, "Depends")
    assert f"linux-image-{release} (= 2.6.20-1)" in run(
        "dpkg-deb", "-f", out / entries[f"kerrighed-modules-{release}"]["file"], "Depends"
    )


def test_programs_are_stripped_and_sums_are_right(
    build: Artifacts, krg: Command, tmp_path: Path
) -> None:
    out = tmp_path / "debs"
    assert krg("package", build.directory, "-o", out, "-q").returncode == 0
    for deb in out.glob("*.deb"):
        root = tmp_path / deb.name
        run("dpkg-deb", "-R", deb, root)
        done = subprocess.run(
            ["md5sum", "--check", "--strict", "--quiet", "DEBIAN/md5sums"], cwd=root,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    (tools,) = tmp_path.glob("kerrighed-tools*.deb")
    assert "not stripped" not in run("file", tools / "usr/bin/krgadm")
    assert ".debug_info" not in run("objdump", "-h", tools / "usr/lib/libkerrighed.a")
    (headers,) = tmp_path.glob("linux-headers*.deb")
    place = next(headers.glob("usr/src/*"))
    assert ".debug_info" not in run("objdump", "-h", place / "scripts/answer")
    said = run("make", "-s", "--no-print-directory", "-C", place, "modules")
    assert said == "hello from the tools\n"


@pytest.mark.parametrize(
    ("library", "depends"),
    [("libelf.so.1", r"libc6 \(>= 2\.\d+\), libelf1"), ("libodd.so.1", None)],
)
def test_headers_depend_on_what_their_programs_use(
    build: Artifacts, krg: Command, tmp_path: Path, library: str, depends: str | None
) -> None:
    """As objtool does of today's kernels; of an unknown library no package is guessed."""
    tree, source = tmp_path / "tree", tmp_path / "used.c"
    tree.mkdir()
    source.write_text("int used(void) { return 0; }\n")
    run("gcc", "-shared", f"-Wl,-soname,{library}", "-o", tmp_path / "lib.so", source)
    source.write_text("int used(void); int main(void) { return used(); }\n")
    run("gcc", "-o", tree / "objtool", source, tmp_path / "lib.so")
    run("tar", "-rf", build.path("headers.tar"), "-C", tree, "objtool")
    changed = {k: v for k, v in build.manifest.items() if k not in ("files", "format")}
    build.path("manifest.json").unlink()
    artifacts.write_manifest(build.directory, changed)
    done = krg("package", build.directory, "-o", tmp_path / "debs", "-q")
    if depends is None:
        assert done.returncode == 2 and f"a program uses {library}, and no package" in done.stderr
        assert not (tmp_path / "debs").exists()
        return
    assert done.returncode == 0, done.stderr
    (headers,) = (tmp_path / "debs").glob("linux-headers*.deb")
    assert re.fullmatch(depends, run("dpkg-deb", "-f", headers, "Depends").strip())


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_the_same_bytes_elsewhere_and_later(
    build: Artifacts, krg: Command, tmp_path: Path, compression: str
) -> None:
    first, second = tmp_path / "a", tmp_path / "other place" / "b"
    options = ["-q", "--compress", compression]
    assert krg("package", build.directory, "-o", first, *options).returncode == 0
    copy = tmp_path / "copy"
    shutil.copytree(build.directory, copy, symlinks=True)
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    home = tmp_path / "another home"
    home.mkdir()
    second.parent.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", sys.executable, "-m", "provision", "package",
         copy, "-o", second, *options],
        env={**os.environ, "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "HOME": str(home),
             "USER": "somebody", "TMPDIR": str(home)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in first.glob("*.deb"))
    assert names == sorted(path.name for path in second.glob("*.deb")) and len(names) == 5
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    # The time is that of SOURCE_DATE_EPOCH where somebody sets it.
    third = tmp_path / "c"
    done = krg("package", build.directory, "-o", third, *options,
               env={**os.environ, "SOURCE_DATE_EPOCH": "1200000000"})  # fmt: skip
    assert done.returncode == 0
    assert "2008-01-10" in run("dpkg-deb", "-c", third / names[0])


def test_a_second_run_does_nothing(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    out = tmp_path / "debs"
    first = krg("package", build.directory, "-o", out)
    assert first.returncode == 0 and not first.stdout.startswith("up to date")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = krg("package", build.directory, "-o", out)
    assert again.stdout == f"up to date: {out}\n"
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    deb = next(out.glob("*.deb"))
    good = deb.read_bytes()
    deb.write_bytes(b"broken")
    third = krg("package", build.directory, "-o", out)
    assert third.returncode == 0 and deb.read_bytes() == good
    other = krg("package", build.directory, "-o", out, "--revision", "2")
    assert other.returncode == 0 and not deb.exists()
    assert all("-2_" in p.name or "-2+" in p.name for p in out.glob("*.deb"))


def test_what_is_refused(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    out = tmp_path / "debs"

    def refused(status: int, said: str, *args: object, **options: object) -> None:
        done = krg("package", *args, **options)
        assert done.returncode == status and said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 5
        assert not [p for p in tmp_path.iterdir() if p.name.startswith((".debs", "debs"))]

    place = ("-o", out, "-q")
    refused(2, "not a finished build", tmp_path, *place)
    refused(2, "is not a maintainer", build.directory, *place, "--maintainer", "me")
    refused(2, "is not a revision", build.directory, *place, "--revision", "1~x")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "strip").symlink_to(shutil.which("strip") or "")
    refused(
        3, "dpkg-deb: not found", build.directory, *place, env={**os.environ, "PATH": str(bin_)}
    )
    image = build.path("vmlinuz")
    image.write_bytes(image.read_bytes() + b"x")
    refused(2, "vmlinuz: changed since it was built", build.directory, *place)


def test_a_place_that_is_not_ours(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    out = tmp_path / "debs"
    out.mkdir()
    (out / "letter").write_text("dear\n")
    done = krg("package", build.directory, "-o", out, "-q")
    assert done.returncode == 2 and "holds no packages of ours" in done.stderr
    (out / "letter").unlink()
    assert krg("package", build.directory, "-o", out, "-q").returncode == 0
    (out / "letter").write_text("dear\n")
    done = krg("package", build.directory, "-o", out, "-q", "--revision", "2")
    assert done.returncode == 2 and "letter: is none of our packages" in done.stderr
    assert (out / "letter").read_text() == "dear\n"


def test_a_name_that_dpkg_refuses(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    # The kernel takes capitals and underscores; a package's name does not.
    manifest = build.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace(build.kernel_release, "2.6.20-My_Kernel"))
    (build.directory / f"lib/modules/{build.kernel_release}").rename(
        build.directory / "lib/modules/2.6.20-My_Kernel"
    )
    done = krg("package", build.directory, "-o", tmp_path / "debs", "-q")
    assert (
        done.returncode == 2 and "dpkg takes no package linux-image-2.6.20-My_Kernel" in done.stderr
    )
    assert "LOCALVERSION" in done.stderr


def test_no_space(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root to mount a small file system; enable by running as root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", small], check=True)
    try:
        done = krg("package", build.directory, "-o", small / "debs", "-q")
        assert done.returncode == 3 and "space" in done.stderr, done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def staged(pid: int) -> int:
    """Return how many trees a run has made ready; they may go while they are counted."""
    try:
        return len(list(Path("/dev/shm").glob(f"krg-package.{pid}-*/*")))
    except FileNotFoundError:
        return 0


def test_killed_in_the_middle(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    """Whenever it is killed there are no packages, or all of them; the next run makes them."""
    out = tmp_path / "place" / "debs"
    out.parent.mkdir()
    argv = [
        sys.executable,
        "-m",
        "provision",
        "package",
        str(build.directory),
        "-o",
        str(out),
        "-q",
    ]
    # All stages lie there: what appears in it tells how far it is.
    for number in range(6):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
        # At the n-th file that appears, wherever that is.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if staged(process.pid) >= number or (out.exists() and number > 4):
                break
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        if out.exists():
            made = package.load(out)
            assert made is not None and len(list(out.glob("*.deb"))) == 5
            shutil.rmtree(out)
    done = krg(*argv[3:])
    assert done.returncode == 0 and len(list(out.glob("*.deb"))) == 5
    assert [path.name for path in out.parent.iterdir()] == ["debs"], "what was left is removed"


@pytest.mark.skipif(
    shutil.which("lintian") is None, reason="needs lintian: apt-get install lintian"
)
def test_lintian_has_nothing_to_say(build: Artifacts, krg: Command, tmp_path: Path) -> None:
    out = tmp_path / "debs"
    assert krg("package", build.directory, "-o", out, "-q").returncode == 0
    # The programs of the small release are linked dynamically, without a dependency to match.
    tags = "missing-dependency-on-libc", "undeclared-elf-prerequisites", "mismatched-override"
    assert lintian.complaints(out.glob("*.deb"), *tags) == ""


def test_another_module_has_packages_of_its_own(
    build: Artifacts, krg: Command, tmp_path: Path
) -> None:
    """As of the release debian-6.1: no tools, and a script made for any module."""
    extra = build.directory / f"lib/modules/{build.kernel_release}/extra"
    (extra / "kerrighed.ko").rename(extra / "nodeids.ko")
    shutil.rmtree(build.directory / "tools")
    made = releases.load("debian-6.1").module
    manifest = {k: v for k, v in build.manifest.items() if k not in ("files", "format")}
    (build.directory / "manifest.json").unlink()
    artifacts.write_manifest(
        build.directory, {**manifest, "module": module.as_json(made), "release": "debian-6.1"}
    )
    out = tmp_path / "debs"
    done = krg("package", build.directory, "-o", out, "-q")
    assert done.returncode == 0, done.stderr
    entries = {e["package"]: e for e in json.loads((out / "packages.json").read_text())["packages"]}
    kernel = f"linux-image-{build.kernel_release}"
    assert set(entries) == {
        kernel, f"{kernel}-dbg", f"linux-headers-{build.kernel_release}",
        f"nodeids-modules-{build.kernel_release}", "nodeids-service",
    }  # fmt: skip
    service = contents(out / entries["nodeids-service"]["file"])
    assert service["etc/init.d/nodeids"].startswith("-rwxr-xr-x")
    assert "lib/systemd/system/nodeids.service" in service
    found = node_packages.load(out, artifacts.load(build.directory))
    assert [p.name for p in found] == [
        kernel, f"nodeids-modules-{build.kernel_release}", "nodeids-service"
    ]  # fmt: skip
    if shutil.which("lintian"):
        mine = [out / e["file"] for name, e in entries.items() if name.startswith("nodeids")]
        assert lintian.complaints(mine, "mismatched-override") == ""


SCRIPTS = [
    f"{folder}/{name}"
    for folder in (*IDS, "service")
    for name in ("preinst", "postinst", "prerm", "postrm")
    if (data_dir("templates") / f"packages/{folder}/{name}.j2").is_file()
]


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="needs shellcheck: apt-get install shellcheck"
)
@pytest.mark.parametrize("name", SCRIPTS)
def test_maintainer_scripts_are_clean(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        render(
            f"packages/{name}.j2",
            release="2.6.20-krg-1",
            name="linux-image-x",
            config={},
            module=module.kerrighed(),
        )
    )
    done = subprocess.run(["shellcheck", "-s", "sh", script], capture_output=True, text=True)
    # A shared part may have functions that one script does not call.
    assert done.returncode == 0, done.stdout
    assert subprocess.run(["dash", "-n", script]).returncode == 0


def test_gzip_has_no_time() -> None:
    assert compressed(b"x" * 100)[4:8] == b"\0\0\0\0"
    assert compressed(b"x" * 100) == compressed(b"x" * 100)


@settings(max_examples=60, deadline=None)
@given(st.text("abzABZ019+-._~", min_size=1, max_size=6))
def test_names_are_those_that_dpkg_deb_takes(name: str) -> None:
    """dpkg-deb is the judge, but for two things that only the policy says.

    A name has two characters; and it has no capitals, which dpkg-deb makes small without a
    word, so that the package would have another name than its files.
    """
    with tempfile.TemporaryDirectory() as place:
        control = Path(place) / "tree/DEBIAN/control"
        control.parent.mkdir(parents=True)
        control.write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y>\nDescription: x\n"
        )
        argv = ["dpkg-deb", "--build", control.parent.parent, Path(place) / "x.deb"]
        taken = subprocess.run(argv, capture_output=True).returncode == 0
    assert (NAME.fullmatch(name) is not None) is (taken and len(name) > 1 and name == name.lower())


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../b", "", "."])
def test_nothing_leads_out_of_a_package(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        Stage(tmp_path / "root", 0).write(name, "x")


@pytest.mark.parametrize(
    ("name", "pattern", "matches"),
    [
        ("tools/bin/x", "tools/bin/*", True),
        ("tools/bin/x/y", "tools/bin/*", False),
        ("lib/modules/r/a/b.ko", "lib/modules/r/**", True),
        ("lib/modules/r/modules.dep", "lib/modules/r/modules.*", True),
        ("lib/modules/rr/a", "lib/modules/r/**", False),
    ],
)
def test_patterns(name: str, pattern: str, matches: bool) -> None:
    assert package_plan._matches(name, pattern) is matches
