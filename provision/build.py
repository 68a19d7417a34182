# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds a release: sources, configuration, kernel, module, tools, proof, artifacts.

The flow is ``build``; each step reads the values of the one before. All commands
go through one Runner, so that a build host needs no second way of doing things:
trees are prepared here, sent, built there, and the results come back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast, get_args

from provision import (
    __version__,
    archive_list,
    artifacts,
    configure,
    elf,
    fixup,
    local_sources,
    musl,
    sources,
    tools,
)
from provision import module as modules
from provision.artifacts import Artifacts
from provision.errors import FailedError, InputError, KrgError, MissingError
from provision.paths import builds_dir, cache_dir, sources_dir
from provision.progress import Phases
from provision.release import Release, Step
from provision.runner import Runner
from provision.space import disk_free, need_space
from provision.tools import Toolchain

# Part of every build's key: raise it when the same inputs give another result.
RECIPE = 2
_SPACE = 2 << 30
# The first gcc with -ffile-prefix-map.
_MAPS_PATHS = 8
_FULL = 1 << 20
# Characters that make or the shells of its rules would take for something else.
_UNFIT = re.compile(r"[\s'\"`$:;#%&()<>|*?!=\[\]{}\\]")
_COMPILES = re.compile(r"^\s+(?:CC|AS|HOSTCC)\s|^(?:\S*/)?libtool: compile|^\S*cc .* -c ")
_ERROR = re.compile(
    r"(?:^|\s)(?:fatal )?error: |undefined reference|^ERROR: |:\d+: Error: "
    r"|\*\*\* .*(?:Error|Stop|No rule)"
)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Order:
    """What to build and how; ``jobs`` 0 means one per processor of the builder."""

    release: Release
    arch: str
    config: configure.Wishes = field(default_factory=configure.Wishes)
    source_dir: Path | None = None
    download: bool = True
    output: Path | None = None
    work: Path | None = None
    jobs: int = 0
    ccache: bool | None = None
    keep_work: bool = False
    command: str = "krg-provision build-kernel"


@dataclass(frozen=True)
class Key:
    """Everything that decides a build's result, and the short id made from it."""

    inputs: Mapping[str, object]

    @property
    def build_id(self) -> str:
        """Return eight hex digits that name the build."""
        text = json.dumps(self.inputs, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def key_of(order: Order, toolchain: Toolchain) -> Key:
    """Return the key of a build; reads only small files, so it is quick."""

    def sha256(value: object) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()

    module = modules.as_json(order.release.module)
    groups = sorted({f for a in order.release.archives.values() for f in a.fixups})
    return Key(
        {
            "recipe": RECIPE,
            "release": sha256(order.release.identity()),
            "arch": order.arch,
            "sources": {n: local_sources.identity(a) for n, a in order.release.archives.items()},
            "fixups": {g: sha256([f.identity() for f in fixup.load(g)]) for g in groups},
            "config": order.config.identity(order.release),
            "tools": toolchain.lines,
            # Its directory's name tells the versions of what it is made from.
            "musl": musl.toolchain(_musl_arch(order)).name if _needs_musl(order) else None,
            # Builds from before there were other modules do not say it.
            **({} if order.release.module == modules.kerrighed() else {"module": sha256(module)}),
        }
    )


def _needs_musl(order: Order) -> bool:
    return any("{musl_cc}" in word for s in order.release.steps for a in s.run for word in a)


def _musl_arch(order: Order) -> musl.Arch:
    for arch in get_args(musl.Arch):
        if arch == order.arch:
            return cast(musl.Arch, arch)
    raise InputError(f"there is no musl compiler for {order.arch}")


def build(order: Order, runner: Runner, phases: Phases) -> tuple[Artifacts, bool]:
    """Build a release and return its artifacts, and whether anything had to be done.

    :raises KrgError: with the step, the compiler's own error and the log's place.
    """
    arch = order.release.arch(order.arch)
    toolchain = tools.survey(runner, arch.gcc_flags, order.release.tools)
    key = key_of(order, toolchain)
    name = f"{order.release.name}-{order.arch}-{key.build_id}"
    final = order.output or builds_dir() / name
    done = _finished(final, key, phases)
    if done is not None:
        return done, False
    work = (order.work or cache_dir() / "work") / name
    for path, option in ((work, "--work-dir"), (final, "--output")):
        unfit = _UNFIT.search(str(path))
        if unfit:
            raise InputError(
                f"{path}: make cannot build below a path with {unfit[0]!r} in it",
                hint=f"name another place with {option}",
            )
    need_space(work, _SPACE, "a build")
    # The result's place too: other inputs may have been told to go there.
    place = hashlib.sha256(os.fsencode(final)).hexdigest()[:16]
    with _only_one(work), _only_one(cache_dir() / "locks" / place):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            run = _Run(order, runner, phases, toolchain, key, work, partial)
            run.all()
            phases.update("finish")
            _replace(partial, final)
        except BaseException as error:
            full = next((p for p in (work, partial) if disk_free(p) < _FULL), None)
            shutil.rmtree(partial, ignore_errors=True)
            if full is not None and isinstance(error, FailedError | OSError):
                raise MissingError(
                    f"{full}: no space left on the device",
                    hint="make room, or name other places with --output and --work-dir",
                ) from error
            raise
        if not order.keep_work:
            shutil.rmtree(work)
    return artifacts.load(final), True


def _finished(final: Path, key: Key, phases: Phases) -> Artifacts | None:
    if _former(final).exists() and not final.exists():
        # Ended between the two renames of _replace: the old build is the build.
        _former(final).rename(final)
    if not (final / artifacts.MANIFEST).is_file():
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise InputError(
                f"{final}: exists and is not a build", hint="name another directory with --output"
            )
        return None
    done = artifacts.load(final)
    foreign = sorted(set(artifacts.list_names(final)) - set(done.files))
    if foreign:
        raise InputError(
            f"{final}: {foreign[0]} is no part of the build there",
            hint="move it away, or name another directory with --output",
        )
    if done.build_id != key.build_id:
        phases.say(f"{final}: holds build {done.build_id}; its inputs have changed since")
        return None
    changed = done.changed()
    if changed:
        phases.say(f"{final}: {changed[0]} was changed since it was built: building again")
        return None
    return done


def _former(final: Path) -> Path:
    return final.with_name(f".{final.name}.former")


def _replace(partial: Path, final: Path) -> None:
    former = _former(final)
    shutil.rmtree(former, ignore_errors=True)
    if final.exists():
        final.rename(former)
    partial.rename(final)
    shutil.rmtree(former, ignore_errors=True)


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Hold a lock that two builds of the same thing cannot share."""
    work.parent.mkdir(parents=True, exist_ok=True)
    with work.with_name(work.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedError(f"{work}: another build of the same thing is running") from error
        yield


class _Run:
    """One build on its way; ``all`` is the flow."""

    def __init__(
        self,
        order: Order,
        runner: Runner,
        phases: Phases,
        toolchain: Toolchain,
        key: Key,
        work: Path,
        partial: Path,
    ) -> None:
        self.order, self.runner, self.phases = order, runner, phases
        self.toolchain, self.key, self.work, self.partial = toolchain, key, work, partial
        self.arch = order.release.arch(order.arch)
        # Paths on the machine that builds.
        self.there = (
            work
            if runner.is_local
            # Another client may build the same thing there with the same account.
            else toolchain.home / f".cache/krg-provision/work/{work.name}-{secrets.token_hex(4)}"
        )
        self.stage = partial if runner.is_local else self.there / "stage"
        self.log_path = cache_dir() / "logs" / f"{work.name}.log"
        self.times: dict[str, float] = {}
        self.kernel_release = ""
        # The whole of it: a release may name only the beginning, as of 6.1.x.
        self.version = order.release.kernel_version

    def all(self) -> None:
        """Do everything; what is left is to give ``partial`` its final name."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("w", encoding="utf-8") as log:
            self.log = log
            log.write(f"# {self.order.command}\n# on {self.runner.name}\n")
            found, outcomes = self._prepare()
            self._configure()
            try:
                self._send()
                self._check_config()
                for step in self.order.release.steps:
                    self._step(step)
                self._collect()
            finally:
                if not self.runner.is_local:
                    with contextlib.suppress(KrgError):
                        self.runner.run(["rm", "-rf", str(self.there)], timeout=120)
            count = self._prove()
        for archive in sorted(self.partial.glob("*.tar")):
            archive_list.write(archive)
        shutil.copyfile(self.log_path, self.partial / "build.log")
        artifacts.write_manifest(self.partial, self._manifest(found, outcomes, count))

    def _prepare(self) -> tuple[dict[str, sources.Source], list[fixup.Outcome]]:
        order, started = self.order, time.monotonic()
        found = sources.sources_of(
            order.release,
            order.source_dir or sources_dir(),
            download=order.download,
            progress=self.phases.update,
        )
        trees = sources.unpack_patched(order.release, found, self.work, self.phases.update)
        self.version = configure.version_of(trees["linux"], order.release)
        facts = {**self.toolchain.versions, "kernel": self.version, "arch": order.arch}
        outcomes = sources.fix(order.release, trees, facts)
        for step in order.release.steps:
            if step.copy_of is not None and not (self.work / step.tree).exists():
                shutil.copytree(self.work / step.copy_of, self.work / step.tree, symlinks=True)
        for outcome in outcomes:
            self.log.write(f"# fix-up {outcome.id}: {outcome.state}\n")
        self.times["sources"] = time.monotonic() - started
        return found, outcomes

    def _configure(self) -> None:
        started = time.monotonic()
        self.phases.update("configure")
        text = configure.text(
            self.work / "linux",
            self.order.release,
            self.order.arch,
            self.order.config,
            self.key.build_id,
        )
        (self.work / "linux/.config").write_text(text, "utf-8")
        (self.partial / "config").write_text(text, "utf-8")
        self.times["configure"] = time.monotonic() - started

    def _send(self) -> None:
        if _needs_musl(self.order):
            compiler = musl.toolchain(_musl_arch(self.order))
            shutil.copytree(compiler, self.work / "musl", symlinks=True)
        if not self.runner.is_local:
            self.phases.update(f"send to {self.runner.name}")
            self.runner.send_tree(self.work, self.there)

    def _check_config(self) -> None:
        """Let the tree's own tool read the configuration: it must change nothing."""
        linux = self.there / "linux"
        command = f"yes '' | make ARCH={shlex.quote(self.order.arch)} oldconfig"
        self._run(["sh", "-c", command], linux, "oldconfig")
        have = self.runner.run(["cat", str(linux / ".config")]).output
        want = (self.partial / "config").read_text("utf-8")
        changed = sorted(configure.values(want) ^ configure.values(have))
        if changed:
            raise FailedError(
                "the tree's own oldconfig changes the configuration: " + ", ".join(changed[:6]),
                hint="this is a bug of krg-provision; please report the lines above",
            )

    def _step(self, step: Step) -> None:
        started = time.monotonic()
        for argv in step.run:
            self._run([self._fill(word) for word in argv], self.there / step.tree, step.name)
        self.times[step.name] = time.monotonic() - started

    def _fill(self, word: str) -> str:
        ccache = self.order.ccache if self.order.ccache is not None else self.toolchain.ccache
        cc = ["ccache gcc" if ccache else "gcc", *self.arch.gcc_flags]
        if int(self.toolchain.versions["gcc"].split(".")[0]) >= _MAPS_PATHS:
            # Modules name their sources in messages: not by where they happened to be built.
            cc.append(f"-ffile-prefix-map={self.there}=/usr/src/{self.order.release.name}")
        values = {
            "arch": self.order.arch,
            "jobs": str(self.order.jobs or self.toolchain.processors),
            "epoch": str(self.order.release.epoch),
            "gcc": " ".join(cc),
            "musl_cc": str(self.there / "musl/cc"),
            "stage": str(self.stage),
            **{name: str(self.there / name) for name in self.order.release.archives},
            **self.arch.values,
        }
        return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), word)

    def _run(self, argv: Sequence[str], cwd: Path, name: str) -> None:
        self.log.write(f"\n$ cd {cwd} && {shlex.join(argv)}\n")
        watch = _Watch(self.log, self.phases, name, self.arch.objects)
        self.phases.update(name)
        result = self.runner.run(
            argv, cwd=cwd, env=self._environment(), clean=True, on_line=watch, check=False
        )
        self.log.flush()
        if not result.ok:
            said = watch.errors or result.output.strip().splitlines()[-3:]
            raise FailedError(
                f"{name}: {shlex.join(argv[:3])} failed with status {result.status}\n  "
                + "\n  ".join(said[:8]),
                hint=f"the whole log: {self.log_path}",
            )

    def _environment(self) -> dict[str, str]:
        """Return all that a step sees: variables such as CROSS_COMPILE or MAKEFLAGS stay out.

        They would change the result without being part of the build's key.
        """
        when = self.order.release.epoch
        env = {
            "HOME": str(self.toolchain.home),
            "LC_ALL": "C",
            "PATH": _SYSTEM_PATH,
            "KCONFIG_NOTIMESTAMP": "1",
            # So that a build is the same on another day, by another user, elsewhere
            # (https://reproducible-builds.org/specs/source-date-epoch/).
            "SOURCE_DATE_EPOCH": str(when),
            "KBUILD_BUILD_TIMESTAMP": time.strftime("%a %b %e %H:%M:%S UTC %Y", time.gmtime(when)),
            "KBUILD_BUILD_USER": "build",
            "KBUILD_BUILD_HOST": "krg-provision",
            "TZ": "UTC",
        }
        if self.runner.is_local:
            env["PATH"] = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}".lstrip(":")
            env |= {
                name: value
                for name, value in os.environ.items()
                if name == "TMPDIR" or name.startswith(("CCACHE_", "XDG_"))
            }
        return env

    def _collect(self) -> None:
        linux = self.there / "linux"
        self.kernel_release = self.runner.run(
            ["cat", str(linux / "include/config/kernel.release")]
        ).output.strip()
        if not re.fullmatch(r"[A-Za-z0-9._+~-]+", self.kernel_release):
            raise FailedError(f"the kernel calls itself {self.kernel_release!r}")
        for name, where in (
            ("vmlinuz", self.arch.image),
            ("vmlinux", "vmlinux"),
            ("System.map", "System.map"),
            ("Module.symvers", "Module.symvers"),
        ):
            self.runner.run(["cp", str(linux / where), str(self.stage / name)])
        modules = self.stage / "lib/modules" / self.kernel_release
        # They lead into the work tree, which goes away.
        self.runner.run(["rm", "-f", str(modules / "build"), str(modules / "source")])
        self._run(
            [
                "depmod",
                "-b",
                str(self.stage),
                "-F",
                str(self.stage / "System.map"),
                self.kernel_release,
            ],
            self.there,
            "depmod",
        )
        if not self.runner.is_local:
            self.phases.update("fetch results")
            self.runner.fetch_tree(self.stage, self.partial)

    def _prove(self) -> int:
        started = time.monotonic()
        self.phases.update("verify modules")
        count = elf.prove(
            self.partial / "vmlinux", self.partial / "lib/modules", self.kernel_release
        )
        self.times["verify"] = time.monotonic() - started
        return count

    def _manifest(
        self, found: Mapping[str, sources.Source], outcomes: Sequence[fixup.Outcome], proven: int
    ) -> dict[str, object]:
        return {
            "release": self.order.release.name,
            "title": self.order.release.title,
            "kernel_version": self.version,
            "epoch": self.order.release.epoch,
            "module": modules.as_json(self.order.release.module),
            "origins": [
                a.urls[0] if a.urls else f"the Debian package {a.debian}"
                for a in self.order.release.archives.values()
                if a.urls or a.debian
            ],
            "gcc_flags": list(self.arch.gcc_flags),
            "builder_machine": self.toolchain.machine,
            "arch": self.order.arch,
            "kernel_release": self.kernel_release,
            "build_id": self.key.build_id,
            "made_by": f"krg-provision {__version__} (Python {platform.python_version()})",
            "repeat": self.order.command,
            "builder": self.runner.name,
            "inputs": self.key.inputs,
            "sources": {n: {"file": s.path.name, "identity": s.identity} for n, s in found.items()},
            "fixups": {o.id: o.state for o in outcomes},
            "modules_proven": proven,
            "seconds": {name: round(value, 1) for name, value in self.times.items()},
        }


class _Watch:
    """Reads a command's output: writes the log, counts compiled files, keeps errors."""

    def __init__(self, log: IO[str], phases: Phases, name: str, total: int) -> None:
        self._log, self._phases, self._name = log, phases, name
        self._total = total if name == "kernel" else None
        self._compiled = 0
        self.errors: list[str] = []

    def __call__(self, line: str) -> None:
        self._log.write(line + "\n")
        if _COMPILES.match(line):
            self._compiled += 1
            total = None if self._total is None else max(self._total, self._compiled)
            self._phases.update(self._name, self._compiled, total)
        elif _ERROR.search(line):
            self.errors.append(line.strip())
