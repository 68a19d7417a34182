# SPDX-License-Identifier: GPL-2.0-or-later
"""A release's kernel configuration: its tree's defconfig, its policy, the user's wishes."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kconfig import config_file, config_source, generate, policy, targets, tree
from kconfig.errors import KconfigError, UnmetError
from provision.errors import FailedError, InputError
from provision.release import Release

_ID = re.compile(r"[a-z0-9]{0,16}")


@dataclass(frozen=True)
class Wishes:
    """What the user wants on top: fragments as (name, text), single SYMBOL=value lines.

    ``base`` replaces the defconfig by a configuration of the user's, as (name, text);
    ``policies`` replaces the release's policy.
    """

    policies: tuple[str, ...] = ()
    fragments: tuple[tuple[str, str], ...] = ()
    sets: tuple[str, ...] = ()
    base: tuple[str, str] | None = None

    def identity(self, release: Release) -> Mapping[str, object]:
        """Return digests of everything here that decides the configuration."""

        def sha256(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        names = self.policies or (release.policy,)
        return {
            "policies": {
                n: sha256(json.dumps(_policy(n).identity())) for n in names if n != "none"
            },
            "fragments": [sha256(text) for _, text in self.fragments],
            "sets": list(self.sets),
            "base": sha256(self.base[1]) if self.base else release.base,
        }


def text_of(path: Path) -> str:
    """Return the text of a file as ``config lint`` takes it: compressed, or inside a kernel.

    :raises InputError: it cannot be read, or is no text.
    """
    try:
        return config_source.read_text(str(path))[0].removeprefix("\ufeff")
    except KconfigError as error:
        raise InputError(str(error)) from error


def base_of(path: Path) -> tuple[str, str]:
    """Return name and text of a configuration to start from; an empty one leaves all to the tree.

    :raises InputError: as for ``text_of``; or there is no line in it that could be a value.
    """
    text = text_of(path)
    if text.strip():
        try:
            config_file.parse(text, str(path))
        except KconfigError as error:
            raise InputError(str(error)) from error
    # The kernel's reader would take the carriage return as part of the value.
    return str(path), text.replace("\r\n", "\n")


def _policy(name: str) -> policy.Policy:
    try:
        return policy.load(name)
    except KconfigError as error:
        raise InputError(str(error)) from error


def version_of(linux: Path, release: Release) -> str:
    """Return a tree's version, such as 6.1.192.

    :raises FailedError: it is none of the release's.
    """
    try:
        version = ".".join(map(str, tree.kernel_version(linux).numbers))
    except KconfigError as error:
        raise FailedError(str(error)) from error
    if not f"{version}.".startswith(f"{release.kernel_version}."):
        raise FailedError(
            f"the source is of Linux {version}, the release {release.name} says "
            f"{release.kernel_version}",
            hint="put it right in the release file, or fetch the right archive",
        )
    return version


def text(linux: Path, release: Release, arch: str, wishes: Wishes, build_id: str) -> str:
    """Return the text of the .config; see ``generated``."""
    return generated(linux, release, arch, wishes, build_id).text


def generated(
    linux: Path,
    release: Release | None,
    arch: str,
    wishes: Wishes,
    build_id: str,
    *,
    shell: bool = True,
) -> generate.Generated:
    """Return the .config for the tree ``linux``, and what was not done as asked.

    Order, later wins: base, policies (which must not contradict each other),
    LOCALVERSION, fragments, single values.

    :param release: whose policy counts if the wishes name none; None for a tree of the
        user's, for which that of its kernel's version counts.
    :param shell: whether the tree may run commands, see kconfig.tree.load.
    :raises InputError: an unknown symbol or a malformed line.
    :raises FailedError: a symbol did not get its value; says what stood in the way.
    """
    assert _ID.fullmatch(build_id)
    try:
        version = tree.kernel_version(linux)
        kconf = tree.load(linux, arch, shell=shell)
        names = wishes.policies or ((release.policy,) if release else ())
        policies = [_policy(n) for n in names if n != "none"]
        if not names:
            policies = policy.for_kernel(version.numbers)
        policy.check_together(rule for one in policies for rule in one.rules)
        requests = [
            request
            for one in policies
            for request in generate.policy_requests(one, arch, version.numbers)
        ]
        if build_id:
            requests.append(generate.Request("LOCALVERSION", (f"-{build_id}",), "the build's id"))
        for name, fragment in wishes.fragments:
            requests += generate.parse_fragment(fragment, name)
        requests += [generate.parse_assignment(line, "--set") for line in wishes.sets]
        kind = release.base if release else "defconfig"
        given = wishes.base
        if given is None and kind == "allnoconfig":
            given = (kind, targets.allconfig(kconf, "n"))
        base_path = Path(given[0]) if given else tree.default_config(linux, arch)
        header = (
            "#\n"
            f"# Linux {version} for {arch}, made by krg-provision\n"
            f"# {f'release {release.name}, ' if release else ''}base {base_path.name}, "
            f"policy {', '.join(one.name for one in policies) or 'none'}\n"
            "#\n"
        )
        with _as_file(given, base_path) as base:
            return generate.generate(kconf, base, requests, version=version.numbers, header=header)
    except UnmetError as error:
        hint = ""
        if release is None and not names and "KERRIGHED" not in kconf.syms:
            hint = (
                f"\n{linux} is without Kerrighed, and the policy for its kernel is about that: "
                "say --policy boot, or --policy none"
            )
        raise FailedError(
            f"{error.count} symbol(s) did not get the value asked for:\n  "
            + "\n  ".join(error.reasons)
            + hint,
        ) from error
    except KconfigError as error:
        raise InputError(str(error)) from error


@contextmanager
def _as_file(base: tuple[str, str] | None, default: Path) -> Iterator[Path]:
    """Give the base as a file: the tree's reader takes no other."""
    if base is None:
        yield default
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="krg-") as file:
        file.write(base[1])
        file.flush()
        yield Path(file.name)


def values(config: str) -> set[str]:
    """Return the value lines of a .config: CONFIG_X=... and ``is not set`` ones."""
    return {
        line
        for line in config.splitlines()
        if line.startswith("CONFIG_") or line.endswith(" is not set")
    }
