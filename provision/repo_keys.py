# SPDX-License-Identifier: GPL-2.0-or-later
"""The key a repository is signed with: the user's own, or one made for it; and what gpgv says.

A key made here is RSA with SHA-256 signatures, which every apt since Debian 5 can check
(gpgv 1.4 knows no elliptic curves), has no passphrase, and does not expire: nodes
that trust it may be older than any date we could choose.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.errors import FailedError, InputError, MissingError
from provision.runner import Result, Runner

_BITS = 3072
_TIMEOUT = 300.0
_AGENT_TRIES = 4
_NO_AGENT = re.compile(r"can't connect to the (?:gpg-)?agent|No agent running")
_ENDS = 10.0  # so long an agent may take to end, seconds
_SOCKET = 106  # the longest path of a socket that gpg takes; unix(7) has one byte more
# RFC 4880 9.1 and 9.4, as gpgv's VALIDSIG says them.
_RSA = "1"
_WEAK_HASHES = {"1": "MD5", "2": "SHA1", "3": "RIPEMD160"}


@dataclass(frozen=True)
class Key:
    """A signing key by its fingerprint; ``home`` is its gpg directory, None: the user's."""

    fingerprint: str
    home: Path | None = None
    passphrase_file: Path | None = None


@dataclass(frozen=True)
class Signature:
    """A good signature: the primary key's fingerprint, and whether gpgv 1.4 can check it."""

    fingerprint: str
    rsa: bool


class Gpg:
    """Runs gpg for one key; leaves no agent behind that it has started."""

    def __init__(self, runner: Runner, home: Path | None, passphrase_file: Path | None) -> None:
        self._runner = runner
        self._home = home
        options = ["gpg", "--batch", "--no-tty", "--yes"]
        if home is not None:
            options += ["--homedir", str(home), "--pinentry-mode", "loopback", "--passphrase", ""]
        elif passphrase_file is not None:
            options += ["--pinentry-mode", "loopback", "--passphrase-file", str(passphrase_file)]
        self._options = options

    def run(self, *argv: str, check: bool = True) -> Result:
        """Run gpg; FailedError says gpg's own reason."""
        for _ in range(_AGENT_TRIES):
            result = self._runner.run(
                [*self._options, *argv], env={"LC_ALL": "C"}, timeout=_TIMEOUT, check=False
            )
            if result.ok or self._home is None or not _NO_AGENT.search(result.output):
                break
            # One that was ending took the call, or the new one was slow to begin.
            _forget_agents(self._home)
        if check and not result.ok:
            raise FailedError(
                f"gpg {_word(argv)}: {_complaint(result)}",
                hint="a key with a passphrase: give --passphrase-file, or unlock it in gpg-agent"
                if self._home is None
                else None,
            )
        return result


@contextlib.contextmanager
def gpg(runner: Runner, key: Key) -> Iterator[Gpg]:
    """Give gpg for a key; the agent of a home of our own ends with it."""
    if key.home is None:
        yield Gpg(runner, None, key.passphrase_file)
        return
    with _short(key.home.absolute()) as home:
        _forget_agents(home)
        try:
            yield Gpg(runner, home, None)
        finally:
            _end_agent(runner, home)
            _forget_agents(home)


def _end_agent(runner: Runner, home: Path) -> None:
    """End the agent of a gpg directory, and wait until it has ended.

    gpgconf only tells it to, and until then it keeps the directory's file system busy.
    """
    ask = ["gpg-connect-agent", "--homedir", str(home), "--no-autostart", "getinfo pid", "/bye"]
    said = runner.run(ask, env={"LC_ALL": "C"}, timeout=60, check=False)
    runner.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], timeout=60, check=False)
    pid = re.search(r"^D (\d+)$", said.output, re.MULTILINE)
    deadline = time.monotonic() + _ENDS
    while pid and _runs(pid[1]) and time.monotonic() < deadline:
        time.sleep(0.01)


def _runs(pid: str) -> bool:
    """Tell whether a process runs; one that only its parent has not noticed to end does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def _forget_agents(home: Path) -> None:
    """Remove the sockets of agents that are ending, or that a killed run has left.

    Such an agent still answers, and knows no key: it looks for them by a path that has gone.
    Without its socket it ends by itself, and gpg starts another.
    """
    for socket in home.glob("S.*"):
        socket.unlink(missing_ok=True)


@contextlib.contextmanager
def _short(home: Path) -> Iterator[Path]:
    """Give a gpg directory by a path that leaves room for the names of the agent's sockets."""
    if len(os.fsencode(home)) <= _SOCKET - len("/S.gpg-agent.browser"):
        yield home
        return
    with tempfile.TemporaryDirectory(prefix="krg-gpg-") as place:
        link = Path(place) / "h"
        link.symlink_to(home)
        yield link


def make(runner: Runner, home: Path) -> Key:
    """Make a signing key in the new gpg directory ``home``; it appears whole."""
    # What interrupted runs have left. Their gpg may still be at work for a moment: in a
    # directory of the same name it, or its agent, would get between us and our key.
    for left in home.parent.glob(f".{home.name}.new*"):
        shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f".{home.name}.new", dir=home.parent))
    with gpg(runner, Key("", new)) as run:
        run.run(
            "--quick-gen-key", "krg-provision package repository", f"rsa{_BITS}", "sign", "never"
        )
    new.rename(home)
    return made(runner, home)


def made(runner: Runner, home: Path) -> Key:
    """Return the key in a gpg directory that ``make`` has made."""
    with gpg(runner, Key("", home)) as run:
        found = _secret_keys(run.run("--with-colons", "--list-secret-keys"))
    if not found:
        raise InputError(f"{home}: holds no secret key", hint="name your own with --key")
    return Key(found[0], home)


def own(runner: Runner, text: str, passphrase_file: Path | None) -> Key:
    """Return the user's key with fingerprint ``text``.

    :raises InputError: not a fingerprint, no such secret key, or it cannot sign any more.
    """
    fingerprint = re.sub(r"^0x|\s", "", text).upper()
    if not re.fullmatch(r"[0-9A-F]{40}", fingerprint):
        raise InputError(
            f"--key {text!r}: not a fingerprint of 40 hex digits",
            hint="gpg --list-secret-keys --with-fingerprint shows them",
        )
    if passphrase_file is not None and not passphrase_file.is_file():
        raise InputError(f"{passphrase_file}: no such file")
    key = Key(fingerprint, None, passphrase_file)
    with gpg(runner, key) as run:
        result = run.run("--with-colons", "--list-secret-keys", fingerprint, check=False)
    found = _secret_keys(result)
    if not found:
        raise InputError(
            f"--key {fingerprint}: no such secret key in your keyring",
            hint="gpg --list-secret-keys --with-fingerprint shows them",
        )
    # The second field of its "sec" line: e expired, r revoked, i invalid, d disabled.
    state = next(line.split(":")[1] for line in result.output.splitlines() if line[:4] == "sec:")
    if state in ("e", "r", "i", "d"):
        words = {"e": "has expired", "r": "is revoked", "i": "is invalid", "d": "is disabled"}
        raise InputError(f"--key {fingerprint}: this key {words[state]}")
    return Key(found[0], None, passphrase_file)


def _secret_keys(result: Result) -> list[str]:
    """Return the fingerprints of primary keys in gpg's colon listing (doc/DETAILS of GnuPG)."""
    found = []
    kind = ""
    for line in result.output.splitlines():
        fields = line.split(":")
        if fields[0] == "fpr" and kind == "sec" and len(fields) > 9:
            found.append(fields[9])
        kind = fields[0]
    return found


def export(run: Gpg, key: Key, binary: Path, armored: Path) -> None:
    """Write the public key, without the signatures of others, in both forms."""
    options = ("--export-options", "export-minimal")
    run.run(*options, "--output", str(binary), "--export", key.fingerprint)
    run.run(*options, "--armor", "--output", str(armored), "--export", key.fingerprint)


def sign(run: Gpg, key: Key, release: Path) -> None:
    """Write InRelease and Release.gpg beside ``release``."""
    options = ("--local-user", key.fingerprint, "--digest-algo", "SHA256", "--armor")
    for name, how in (("InRelease", "--clear-sign"), ("Release.gpg", "--detach-sign")):
        run.run(*options, "--output", str(release.with_name(name)), how, str(release))


def verify(runner: Runner, keyring: Path, key: Key, release: Path) -> Signature:
    """Check InRelease and Release.gpg against ``keyring`` as a node does.

    :raises FailedError: a signature is not good, not by ``key``, or is of something else.
    """
    inside = release.with_name(".InRelease.inside")
    try:
        cleared = ["--output", str(inside), str(release.with_name("InRelease"))]
        signatures = [
            _verified(runner, keyring, key, cleared),
            _verified(runner, keyring, key, [str(release.with_name("Release.gpg")), str(release)]),
        ]
        if inside.read_bytes() != release.read_bytes():
            raise FailedError(f"{release.with_name('InRelease')}: does not say what Release says")
    finally:
        inside.unlink(missing_ok=True)
    return signatures[0]


def _verified(runner: Runner, keyring: Path, key: Key, what: Sequence[str]) -> Signature:
    argv = ["gpgv", "--keyring", str(keyring), "--status-fd", "1", *what]
    result = runner.run(argv, env={"LC_ALL": "C"}, timeout=_TIMEOUT, check=False)
    for line in result.output.splitlines():
        # VALIDSIG fpr date stamp expire version reserved key-algo hash-algo class primary
        words = line.removeprefix("[GNUPG:] ").split()
        if result.ok and words[:1] == ["VALIDSIG"] and words[-1] == key.fingerprint:
            if words[8] in _WEAK_HASHES:
                raise FailedError(f"{what[-1]}: signed with {_WEAK_HASHES[words[8]]}: apt says no")
            return Signature(words[-1], words[7] == _RSA)
    raise FailedError(f"{what[-1]}: gpgv does not accept the signature ({_complaint(result)})")


def need(*tools: str) -> None:
    """Check that programs are there before anything is touched.

    :raises MissingError: one is not.
    """
    packages = {"apt-ftparchive": "apt-utils", "gpgconf": "gnupg", "gpg": "gnupg", "gpgv": "gpgv"}
    lacks = [tool for tool in tools if shutil.which(tool) is None]
    if lacks:
        names = " ".join(sorted({packages.get(tool, tool) for tool in lacks}))
        raise MissingError(
            f"{', '.join(lacks)}: not found on this machine", hint=f"apt-get install {names}"
        )


def _word(argv: Sequence[str]) -> str:
    known = ("--quick-gen-key", "--clear-sign", "--detach-sign", "--export", "--list-secret-keys")
    return next((word for word in argv if word in known), argv[0])


def _complaint(result: Result) -> str:
    """Return the last line in which gpg says something to people."""
    lines = [line for line in result.output.splitlines() if line.startswith(("gpg: ", "gpgv: "))]
    return (lines[-1:] or result.output.strip().splitlines()[-1:] or ["no output"])[0]
