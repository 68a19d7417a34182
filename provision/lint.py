# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of ``config lint``: read, check, leave out what is known. No output."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from kconfig import config_source, garbage, known, lint, policy
from kconfig import report as reports
from kconfig.config_file import ConfigFile
from kconfig.errors import KconfigError
from kconfig.finding import Finding
from provision.errors import InputError

if TYPE_CHECKING:
    from kconfig.built import Built
    from kconfig.diff import Change
    from kconfig.drivers import Device
    from kconfig.lint_tree import Trees

_MOST_TEXT = 16 << 20


class Options(NamedTuple):
    """What the user asked for; None and "" where the files themselves are to tell."""

    policies: tuple[str, ...] = ()
    version: policy.Version | None = None
    arch: str = ""
    tree: Path | None = None
    other_tree: Path | None = None
    facts: Mapping[str, str] = MappingProxyType({})
    devices: tuple[Device, ...] = ()
    shell: bool = True
    modules: Path | None = None


class Outcome(NamedTuple):
    """Findings of all files that could be read, and an error for each that could not."""

    findings: tuple[Finding, ...]
    files: tuple[str, ...]
    ignored: int
    errors: tuple[str, ...]


def options(
    *,
    policies: tuple[str, ...],
    tree: Path | None,
    other_tree: Path | None,
    arch: str,
    version: str | None,
    cmdline: str | None,
    nodes: tuple[Path, ...],
    initrd: bool | None,
    shell: bool = True,
    modules: Path | None = None,
) -> Options:
    """Return the options the command line gives; InputError when one is malformed."""
    facts: dict[str, str] = {}
    devices: tuple[Device, ...] = ()
    if cmdline is not None or nodes or initrd is not None:
        from kconfig import crosscheck

        try:
            seen = crosscheck.node_facts(
                [(str(path), _read(path)) for path in nodes], cmdline, initrd
            )
        except KconfigError as error:
            raise InputError(str(error)) from error
        facts, devices = dict(seen.facts), seen.devices
    numbers = None
    if version is not None:
        match = re.fullmatch(r"(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?(?:-.*)?", version)
        if not match:
            raise InputError(f"{version!r} is not a kernel version such as 2.6.20")
        numbers = (int(match[1]), int(match[2]), int(match[3] or 0))
    if arch and not re.fullmatch("[a-z0-9_]+", arch):
        raise InputError(f"{arch[:60]!r} is not an architecture such as x86_64")
    if other_tree is not None and tree is None:
        raise InputError("--other-tree compares with --tree, which is missing")
    if modules is not None and not nodes:
        raise InputError("--modules is searched for the devices of --node, which is missing")
    return Options(policies, numbers, arch, tree, other_tree, facts, devices, shell, modules)


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        # A named pipe may never end; that of a shell's <(...) has a writer.
        if stat.S_ISFIFO(mode) and path.parent != Path("/dev/fd"):
            raise InputError(f"{path}: a named pipe, not a file")
        with path.open("rb") as stream:
            data = stream.read(_MOST_TEXT + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(data) > _MOST_TEXT or b"\0" in data:
        raise InputError(f"{path}: not a text file of ours")
    return data.decode("utf-8", "backslashreplace")


def write(path: Path, text: str) -> None:
    """Write a report as a whole or not at all."""
    from provision.atomic import write_output

    write_output(path, text)


def write_baseline(path: Path, findings: Sequence[Finding]) -> None:
    """Make all of ``findings`` known."""
    write(path, known.dump(findings))


def report(outcome: Outcome, baseline: Path | None, fail_on: str, version: str) -> reports.Report:
    """Return what to show: findings that the baseline does not know."""
    findings: Sequence[Finding] = outcome.findings
    old: list[Finding] = []
    if baseline is not None:
        try:
            findings, old = known.split(findings, known.load(_read(baseline), str(baseline)))
        except KconfigError as error:
            raise InputError(str(error)) from error
    return reports.Report(findings, outcome.files, fail_on, len(old), outcome.ignored, version)


def render(found: reports.Report, form: str, *, to_terminal: bool) -> str:
    """Return the report as text; colour only for a terminal, and not with NO_COLOR."""
    if form == "table":
        stdout = sys.stdout  # None when it was closed
        colour = to_terminal and stdout and stdout.isatty() and not os.environ.get("NO_COLOR")
        return reports.table(found, colour=bool(colour))
    return reports.FORMATS[form](found)


def expand(names: Sequence[str]) -> list[str]:
    """Return file names with wildcards replaced by what they match, each name once.

    :raises InputError: a wildcard matches nothing.
    """
    files: dict[str, None] = {}
    for name in names:
        if not any(special in name for special in "*?[") or Path(name).exists():
            files[name] = None
            continue
        import glob

        # Path.glob takes no absolute pattern.
        found = glob.glob(name, recursive=True)  # noqa: PTH207
        matches = sorted(match for match in found if Path(match).is_file())
        if not matches:
            raise InputError(f"{name}: matches no file")
        files.update(dict.fromkeys(matches))
    return list(files)


def run(names: Sequence[str], options: Options) -> Outcome:
    """Check files; one that cannot be read does not keep the others from being checked.

    :raises InputError: a policy or a tree is wrong.
    """
    findings: list[Finding] = []
    files = []
    errors = []
    ignored = 0
    checker = _Checker(options)
    for name in expand(names):
        try:
            config = config_source.read(name)
        except KconfigError as error:
            errors.append(str(error))
            continue
        try:
            with garbage.kept():
                left, out = known.ignore(checker.check(config), config)
        except KconfigError as error:
            raise InputError(str(error)) from error
        findings += left
        ignored += len(out)
        files.append(config.name)
    return Outcome(tuple(findings), tuple(files), ignored, tuple(errors))


class _Checker:
    """Keeps what is the same for all files: policies and trees that were loaded."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._trees: dict[str, Trees] = {}
        self._built: Built | None = None
        try:
            if options.modules is not None:
                from kconfig import built

                self._built = built.load(options.modules)
            self._policies = [policy.load(name) for name in options.policies if name != "none"]
            policy.check_together(rule for one in self._policies for rule in one.rules)
        except KconfigError as error:
            raise InputError(str(error)) from error

    def check(self, config: ConfigFile) -> list[Finding]:
        options = self._options
        version = options.version
        if version is None and options.tree is not None:
            from kconfig.tree import kernel_version

            version = kernel_version(options.tree).numbers
        version = version or config.version
        policies = self._policies if options.policies else policy.for_kernel(version)
        if version is None:
            version = next((one.kernel for one in policies if one.kernel), None)
        subject = lint.Subject(config, version, options.arch or config.arch, options.facts)
        if options.tree is None:
            findings = lint.lint(subject, policies)
            if options.devices:
                from kconfig import crosscheck

                findings += crosscheck.devices(subject, None, options.devices, self._built)
            return findings
        return self._in_tree(subject, policies, options.tree)

    def _in_tree(
        self, subject: lint.Subject, policies: Sequence[policy.Policy], tree: Path
    ) -> list[Finding]:
        from kconfig import lint_tree

        options = self._options
        arch = lint_tree.arch_of(tree, subject.arch)
        if arch not in self._trees:
            self._trees[arch] = lint_tree.load(tree, arch, options.other_tree, shell=options.shell)
        trees = self._trees[arch]
        # Policies judge what the kernel would be built with, not what the file says.
        subject = subject._replace(final=lint_tree.final_values(subject.config, trees))
        findings = lint.lint(subject, policies) + lint_tree.lint(subject, trees)
        if options.devices:
            from kconfig import crosscheck

            findings += crosscheck.devices(subject, tree, options.devices, self._built)
        return findings


def differences(
    before: str,
    after: str,
    tree: Path | None,
    arch: str,
    policies: Sequence[str],
    *,
    shell: bool = True,
) -> list[Change]:
    """Return the changes between two configurations; InputError when one cannot be read."""
    from kconfig import diff

    try:
        a, b = config_source.read(before), config_source.read(after)
        version = b.version or a.version
        if policies:
            chosen = [policy.load(name) for name in policies if name != "none"]
            policy.check_together(rule for one in chosen for rule in one.rules)
        else:
            chosen = policy.for_kernel(version)
        menus = diff.menus_of(tree, arch or b.arch, shell=shell) if tree else None
        return diff.diff(a, b, chosen, version=version, arch=arch or b.arch, menus=menus)
    except KconfigError as error:
        raise InputError(str(error)) from error
