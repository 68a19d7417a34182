# SPDX-License-Identifier: GPL-2.0-or-later
"""The real Linux 2.6.20 and Kerrighed 2.4.4: patches, fix-ups, configurations, builds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kconfig import generate, policy, tree
from provision import artifacts, configure, fixup, release, sources, unpack
from provision.errors import FailedError, InputError, MissingError
from provision.paths import builds_dir, cache_dir, sources_dir

pytestmark = pytest.mark.sources

ARCHES = ("x86_64", "i386")
RELEASE = release.load(release.DEFAULT)
# Resolved when this file is read, before any test gets a home of its own.
SOURCES = Path(os.environ.get("KRG_TEST_SOURCES") or sources_dir())
REAL = {"XDG_CACHE_HOME": str(cache_dir().parent), "XDG_DATA_HOME": str(builds_dir().parent.parent)}
# With these every fix-up of an architecture applies.
FACTS = {"gcc": "12.2.0", "binutils": "2.40", "make": "4.3", "kernel": "2.6.20"}


@pytest.fixture(scope="session", autouse=True)
def archives() -> Mapping[str, sources.Source]:
    """The two archives, verified; without them the tests here are skipped."""
    try:
        return sources.sources_of(RELEASE, SOURCES, download=False)
    except MissingError as error:
        pytest.skip(
            f"{error.message}; enable with: krg-provision fetch "
            "(or name another directory in KRG_TEST_SOURCES)"
        )


@pytest.fixture(scope="session")
def patched(
    archives: Mapping[str, sources.Source], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Path]]:
    """The unpacked and patched trees, before any fix-up. Read only."""
    work = tmp_path_factory.mktemp("patched")
    trees = sources.unpack_all(archives, work / "trees")
    assert RELEASE.patches is not None
    sources.apply_patches(RELEASE.patches, trees)
    yield trees
    shutil.rmtree(work)


def fix(trees: Mapping[str, Path], arch: str) -> list[fixup.Outcome]:
    return [
        outcome
        for name, place in trees.items()
        for group in RELEASE.archives[name].fixups
        for outcome in fixup.apply(place, fixup.load(group), FACTS | {"arch": arch})
    ]


@pytest.fixture(scope="session", params=ARCHES)
def fixed(
    request: pytest.FixtureRequest,
    patched: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Mapping[str, Path], list[fixup.Outcome]]]:
    """For each architecture: its name, the trees after the fix-ups, what those came to."""
    work = tmp_path_factory.mktemp(request.param)
    trees = {}
    for name, place in patched.items():
        trees[name] = work / name
        shutil.copytree(place, trees[name], symlinks=True)
    yield request.param, trees, fix(trees, request.param)
    shutil.rmtree(work)


def make(linux: Path, arch: str, *targets: str) -> str:
    """Run make as a build does; return the .config it leaves."""
    command = f"yes '' | make ARCH={arch} {' '.join(targets)}"
    env = {**os.environ, "LC_ALL": "C", "KCONFIG_NOTIMESTAMP": "1"}
    done = subprocess.run(["sh", "-c", command], cwd=linux, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (linux / ".config").read_text("latin-1")


def body(config: str) -> list[str]:
    """Return a configuration's lines after the comment at its top."""
    lines = config.splitlines()
    while lines and lines[0].startswith("#") and "CONFIG_" not in lines[0]:
        lines.pop(0)
    return lines


def configured(linux: Path, arch: str, *sets: str, base: Path | None = None) -> str:
    wishes = configure.Wishes(sets=sets, base=configure.base_of(base) if base else None)
    return configure.text(linux, RELEASE, arch, wishes, "0123abcd")


def test_the_archives_are_the_releases(archives: Mapping[str, sources.Source]) -> None:
    assert unpack.archive_tree_id(archives["linux"].path) == RELEASE.archives["linux"].tree
    assert artifacts.digest(archives["kerrighed"].path) == RELEASE.archives["kerrighed"].sha256


def test_all_patches_apply(patched: Mapping[str, Path]) -> None:
    linux = patched["linux"]
    assert str(tree.kernel_version(linux)) == "2.6.20-krg"
    assert not list(linux.rglob("*.rej")) and not list(linux.rglob("*.orig"))
    assert (linux / "kerrighed").is_dir() or (linux / "include/kerrighed").is_dir()


def test_a_patch_too_many_is_noticed(patched: Mapping[str, Path], tmp_path: Path) -> None:
    """The first patch once more, on a tree that has it."""
    assert RELEASE.patches is not None
    linux = patched["linux"]
    first = min(patched["kerrighed"].glob(RELEASE.patches.glob))
    before = unpack.directory_tree_id(linux)
    copy = tmp_path / "linux"
    shutil.copytree(linux, copy, symlinks=True)
    with pytest.raises(FailedError, match=re.escape(first.name)):
        sources._apply_patch(first, copy, RELEASE.patches.strip)
    assert unpack.directory_tree_id(linux) == before


def test_fixups_are_all_applied_and_only_once(
    fixed: tuple[str, Mapping[str, Path], list[fixup.Outcome]],
) -> None:
    arch, trees, first = fixed
    assert {o.state for o in first if "i386" not in o.id} <= {"applied", "already there"}
    needed = "applied" if arch == "i386" else "not needed"
    assert {o.id: o.state for o in first}["kerrighed-i386-partial-link"] == needed
    before = {name: unpack.directory_tree_id(place) for name, place in trees.items()}
    second = fix(trees, arch)
    assert {o.state for o in second} <= {"already there", "not needed"}
    assert {name: unpack.directory_tree_id(place) for name, place in trees.items()} == before


@pytest.mark.parametrize("archive", list(RELEASE.archives))
def test_a_fixup_that_no_longer_matches_names_itself(
    patched: Mapping[str, Path], tmp_path: Path, archive: str
) -> None:
    """Every shipped edit, on its real file, and with that file's text replaced."""
    place = patched[archive]
    for group in RELEASE.archives[archive].fixups:
        for number, one in enumerate(fixup.load(group)):
            few = tmp_path / f"{group}-{number}"
            for edit in one.edits:
                for path in place.glob(edit.file):
                    target = few / path.relative_to(place)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
            plain = [fixup.Fixup(one.id, one.why, one.edits)]
            assert fixup.apply(few, plain, FACTS)[0].state in ("applied", "already there")
            assert fixup.apply(few, plain, FACTS)[0].state == "already there"
            for path in few.rglob("*"):
                if path.is_file():
                    path.write_text("/* another release's file */\n")
            with pytest.raises(FailedError, match=re.escape(f"fix-up {one.id} does not fit")):
                fixup.apply(few, plain, FACTS)


@pytest.mark.parametrize("name", [n for n in RELEASE.archives])
def test_upstream_commits_are_named_once(name: str) -> None:
    found = [
        one.upstream
        for group in RELEASE.archives[name].fixups
        for one in fixup.load(group)
        if one.upstream
    ]
    assert len(found) == len(set(found))


def test_defconfig_is_what_make_defconfig_writes(
    fixed: tuple[str, Mapping[str, Path], list[fixup.Outcome]],
) -> None:
    arch, trees, _ = fixed
    linux = trees["linux"]
    want = make(linux, arch, "defconfig")
    kconf = tree.load(linux, arch)
    base = linux / f"arch/{arch}/defconfig"
    made = generate.generate(kconf, base, [], version=(2, 6, 20))
    assert body(made.text) == body(want)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("SMP=n", "MAGIC_SYSRQ=n", "NFS_FS=n", "USB=n"),
        ("NFS_FS=y", "ROOT_NFS=y", "IP_PNP=y", "SOUND=m", "USB=m"),
        ('CMDLINE_UNKNOWN_SYMBOL=n', "DEBUG_KERNEL=y", "DEBUG_INFO=y", "LOG_BUF_SHIFT=18"),
    ],
    ids=["as it is", "less", "more", "debugging"],
)  # fmt: skip
def test_oldconfig_accepts_it_without_a_change(
    fixed: tuple[str, Mapping[str, Path], list[fixup.Outcome]], sets: tuple[str, ...]
) -> None:
    arch, trees, _ = fixed
    linux = trees["linux"]
    text = configured(linux, arch, *sets)
    (linux / ".config").write_text(text)
    assert body(make(linux, arch, "oldconfig")) == body(text)


def test_a_base_that_assigns_twice_is_read_as_the_tree_reads_it(
    fixed: tuple[str, Mapping[str, Path], list[fixup.Outcome]], tmp_path: Path
) -> None:
    arch, trees, _ = fixed
    linux = trees["linux"]
    base = tmp_path / "base"
    text = (linux / f"arch/{arch}/defconfig").read_text("latin-1")
    more = ("CONFIG_EXT2_FS=m", "CONFIG_LOG_BUF_SHIFT=14", "CONFIG_PREEMPT=y",
            "# CONFIG_NET is not set", 'CONFIG_LOCALVERSION="-second"', "CONFIG_SMP=y")  # fmt: skip
    base.write_text(text + "\n".join(more) + "\n")
    (linux / ".config").write_bytes(base.read_bytes())
    want = make(linux, arch, "oldconfig")
    made = generate.generate(tree.load(linux, arch), base, [], version=(2, 6, 20))
    assert body(made.text) == body(want)


def values(text: str) -> dict[str, str]:
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("arch", ARCHES)
def test_what_the_safe_configuration_holds(patched: Mapping[str, Path], arch: str) -> None:
    """What the program is for, spelled out: not read from the policy that it checks."""
    linux = patched["linux"]
    have = values(configured(linux, arch))
    for name in (
        "KERRIGHED", "PREEMPT_NONE", "TIPC", "CONFIGFS_FS", "MODULES", "MODVERSIONS", "EXT2_FS",
        "EXT3_FS", "E1000", "8139TOO", "BLK_DEV_PIIX", "BLK_DEV_IDEDISK", "SERIAL_8250_CONSOLE",
        "WATCHDOG", "SATA_AHCI", "ATA_PIIX", "BLK_DEV_INITRD", "NETFILTER",
    ):  # fmt: skip
        assert have.get(name) == "y", name
    for name in (
        "NETFILTER_XTABLES", "IP_NF_IPTABLES", "IP_NF_FILTER", "IP_NF_TARGET_REJECT",
        "NETFILTER_XT_MATCH_STATE", "NF_CONNTRACK_IPV4", "I6300ESB_WDT", "SOFT_WATCHDOG",
    ):  # fmt: skip
        assert have.get(name) in ("y", "m"), name
    for name in ("KEYS", "PREEMPT", "PREEMPT_VOLUNTARY", "LOCALVERSION_AUTO", "KDB"):
        assert name not in have, name
    assert have["LOCALVERSION"] == '"-0123abcd"'
    assert have.get("BLK_DEV_FD") != "y"


@pytest.mark.parametrize("arch", ARCHES)
def test_no_experimental_disk_driver_is_on(patched: Mapping[str, Path], arch: str) -> None:
    """The list comes from the tree itself: drivers/ata symbols that depend on EXPERIMENTAL."""
    linux = patched["linux"]
    text = (linux / "drivers/ata/Kconfig").read_text("latin-1")
    entries = re.split(r"^config (\w+)$", text, flags=re.MULTILINE)[1:]
    experimental = {
        name
        for name, said in zip(entries[::2], entries[1::2], strict=True)
        if re.search(r"depends on .*\bEXPERIMENTAL\b|\(.*experimental.*\)\"", said, re.IGNORECASE)
    }
    assert len(experimental) >= 25
    have = values(configured(linux, arch))
    assert experimental & set(have) == set()


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("PREEMPT=y", FailedError, "'Preemption Model' has PREEMPT"),
        ("KEYS=y", FailedError, "KERRIGHED is n, wanted y: needs !KEYS"),
        ("SECURITY_UNHEARD_OF=y", FailedError, "this tree has no such symbol"),
        ("KERIGHED=y", FailedError, "perhaps KERRIGHED"),
        ("NET=n", FailedError, "NET"),
        ("X", InputError, "is not SYMBOL=value"),
    ],
)
def test_what_breaks_kerrighed_is_explained(
    patched: Mapping[str, Path], line: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        configured(patched["linux"], "x86_64", line)
    assert said in str(caught.value)


def krg(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the user's own cache and builds: what the lab boots comes from there."""
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(
        [sys.executable, "-m", "provision", *words],
        env={**os.environ, **REAL, "PYTHONPATH": str(root), **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("arch", ARCHES)
def test_a_whole_build_and_a_second_run(arch: str) -> None:
    options = ["--arch", arch, "--no-download", "--source-dir", str(SOURCES), "--format", "json"]
    done = krg("build-kernel", "-q", *options)
    if done.returncode == 3:
        pytest.skip(f"this machine cannot build: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    made = artifacts.load(Path(first["directory"]))
    assert made.changed() == []
    assert made.kernel_release == f"2.6.20-krg-{made.build_id}"
    assert made.manifest["modules_proven"] > 20
    modules = f"lib/modules/{made.kernel_release}"
    assert {"vmlinuz", "vmlinux", "Module.symvers", f"{modules}/modules.dep",
            f"{modules}/extra/kerrighed.ko", "tools/bin/krgadm", "tools/bin/migrate",
            } <= set(made.files)  # fmt: skip
    for name in ("krgadm", "migrate"):
        said = subprocess.run(
            ["file", "-b", made.path(f"tools/bin/{name}")], capture_output=True, text=True
        ).stdout if shutil.which("file") else "statically linked"  # fmt: skip
        assert "statically linked" in said
    started = time.monotonic()
    again = krg("build-kernel", *options)
    seconds = time.monotonic() - started
    assert json.loads(again.stdout)["built"] is False
    # The promise is 2 s (see ./dev bench); here the machine is busy with other tests.
    assert seconds < 10


# Rules about what the kernel lacks: they say so in their reason.
LACKS = {"root-ext4", "root-ext4-module", "root-disk-vd"}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", [RELEASE.policy, "boot"])
def test_policies_name_symbols_that_exist(
    patched: Mapping[str, Path], arch: str, name: str
) -> None:
    """A rule about a symbol that no kernel has would be kept, or broken, for ever."""
    defined = {s.name for s in tree.load(patched["linux"], arch).unique_defined_syms}
    rules, _ = policy.applicable(policy.load(name).rules, (2, 6, 20), arch)
    missing = {(r.id, s) for r in rules if not r.any for s in r.symbols if s not in defined}
    assert {rule for rule, _ in missing} == (LACKS if name == "boot" else set())
    for rule in rules:
        assert not rule.any or defined & set(rule.symbols), rule.name
