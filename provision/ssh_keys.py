# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys for SSH: private key files, and the host keys that are known.

known_hosts files are read here and not by paramiko, which passes over ``@revoked`` lines and
patterns, and takes one key of a kind per host. Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import io
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.errors import FailedError, InputError

if TYPE_CHECKING:
    import paramiko


def fingerprint(key: Any) -> str:
    """Return a public key's fingerprint as ssh prints it: SHA256:..."""
    return _fingerprint(key.asbytes())


def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def load_key(path: Path) -> paramiko.PKey:
    """Read a private key file of any kind paramiko knows.

    :raises InputError: it cannot be read, is no key, or needs a passphrase.
    """
    import paramiko

    kinds = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise InputError(
            f"key {path}: cannot be read: {error.strerror}",
            hint="name a private key file, or leave key out to use ssh-agent",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"key {path}: not a private key") from error
    except ValueError as error:
        raise InputError(f"key {path!s:.200}: {error}") from error
    for kind in kinds:
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.PasswordRequiredException as error:
            raise InputError(
                f"key {path}: protected by a passphrase",
                hint=f"run: ssh-add {shlex.quote(str(path))}, and leave key out of the "
                "cluster file",
            ) from error
        except (paramiko.SSHException, ValueError, IndexError, TypeError):
            continue
    raise InputError(
        f"key {path}: not a private key (Ed25519, ECDSA or RSA)",
        hint="make one: ssh-keygen -t ed25519",
    )


# --- known_hosts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a known_hosts file; ``marker`` is "", "@revoked" or "@cert-authority"."""

    marker: str
    hosts: str
    kind: str
    blob: bytes

    def is_about(self, name: str) -> bool:
        """Tell whether the line's hosts include ``name``: HOST, or [HOST]:PORT."""
        if self.hosts.startswith("|1|"):
            salt, _, digest = self.hosts[3:].partition("|")
            try:
                made = hmac.new(base64.b64decode(salt), name.encode(), "sha1").digest()
                return hmac.compare_digest(made, base64.b64decode(digest))
            except binascii.Error:
                return False
        found = False
        for pattern in self.hosts.lower().split(","):
            # Only * and ? are special; brackets are those of [HOST]:PORT.
            plain = pattern.removeprefix("!").replace("[", "[[]")
            if fnmatch.fnmatchcase(name, plain):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def read_known_hosts(path: Path) -> tuple[Line, ...]:
    """Return the lines of a known_hosts file.

    :raises InputError: it cannot be read, or a line has a key that is none.
    """
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"known_hosts {path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=64)
def _read(path: Path, _: int, __: int) -> tuple[Line, ...]:
    found = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        words = raw.decode("utf-8", "replace").split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3 or not re.fullmatch(r"[a-z][A-Za-z0-9@.-]*", words[1]):
            continue  # as ssh does; keys of protocol 1 have a number here
        try:
            blob = base64.b64decode(words[2], validate=True)
            size = int.from_bytes(blob[:4])
            if blob[4 : 4 + size].decode("ascii") != words[1]:
                raise ValueError(f"its data are not of the kind {words[1]}")
        except ValueError as error:
            raise InputError(
                f"known_hosts {path}:{number}: not a host key: {error}",
                hint="remove that line; ssh-keyscan gives the key again",
            ) from error
        found.append(Line(marker, words[0], words[1], blob))
    return tuple(found)


class UnknownKeyError(FailedError):
    """A host has shown a key that no file knows; what ssh-keyscan would be told."""

    def __init__(self, key: Any, name: str, file: str, also: str) -> None:
        host, _, port = name.removeprefix("[").partition("]:")
        self.host, self.port, self.kind, self.file = host, int(port or 22), _kind(key), file
        super().__init__(
            f"unknown host key {fingerprint(key)} ({key.get_name()}) of {name}",
            hint="compare it on the node: ssh-keygen -lf /etc/ssh/ssh_host_KIND_key.pub; "
            f"if it is the same: ssh-keyscan -t {self.kind} -p {self.port} {host} "
            f">>{file}{also}",
        )


class KnownKeys:
    """What known_hosts files say about one host.

    :param name: its name in them: HOST, or [HOST]:PORT when the port is not 22.
    :param files: those that do not exist are passed over.
    :param add_to: the file that a new key would be added to, for messages.
    """

    def __init__(self, name: str, files: Iterable[Path], add_to: str) -> None:
        self.name = name
        self._add_to = add_to
        lines = [line for file in files if file.is_file() for line in read_known_hosts(file)]
        self._revoked = {line.blob for line in lines if line.marker == "@revoked"}
        about = [line for line in lines if line.is_about(name.lower())]
        self._known = [line for line in about if not line.marker]
        self._authority = any(line.marker == "@cert-authority" for line in about)

    def unwanted(self, algorithms: Iterable[str]) -> list[str]:
        """Return the host key algorithms that would give a key of a kind that is not known.

        A server has several keys and gives the one that is asked for first.
        """
        kinds = {line.kind for line in self._known}
        wanted = kinds | ({"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in kinds else set())
        return [name for name in algorithms if kinds and name not in wanted]

    def check(self, key: paramiko.PKey) -> None:
        """Check the key that a host has shown.

        :raises FailedError: it is revoked, unknown, or another one is known.
        """
        blob = key.asbytes()
        if blob in self._revoked:
            raise FailedError(
                f"the host key of {self.name} is revoked: {fingerprint(key)}",
                hint="a known_hosts file has it under @revoked: the node needs a new one",
            )
        if any(line.blob == blob for line in self._known):
            return
        if self._known:
            self.changed(f"it is {fingerprint(key)}")
        also = (
            "; the @cert-authority line for it is not used: only plain host keys are"
            if self._authority
            else ""
        )
        raise UnknownKeyError(key, self.name, self._add_to, also)

    def changed(self, what: str) -> None:
        """Raise the FailedError of a host that shows none of the keys known for it."""
        known = ", ".join(dict.fromkeys(_fingerprint(line.blob) for line in self._known))
        raise FailedError(
            f"the host key of {self.name} has changed: {what}, known was {known}",
            hint="if the node was installed again, remove the old key: "
            f"ssh-keygen -R {shlex.quote(self.name)}"
            + ("" if self._add_to.startswith("~") else f" -f {self._add_to}"),
        )


def _kind(key: Any) -> str:
    name = str(key.get_name())
    return "ecdsa" if "ecdsa" in name else "ed25519" if "ed25519" in name else "rsa"
