# SPDX-License-Identifier: GPL-2.0-or-later
"""A door to Debian's packages, binary and source, without root and beside the machine's own apt.

apt runs with directories of its own (lists, cache, an empty dpkg status) and with a
source list made from the machine's own Debian entries, ``deb-src`` added, so mirrors,
proxies and keyrings stay the machine's. apt checks signatures and digests. The formats
are those of sources.list(5) and apt.conf(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from provision.artifacts import digest
from provision.atomic import write_text
from provision.console import say
from provision.errors import FailedError, InputError, MissingError
from provision.runner import LocalRunner, Result

ETC_APT = Path("/etc/apt")
INDEX_AGE = 24 * 3600.0  # an index this young is not fetched again, seconds
APT_TIMEOUT = 1200.0

# What decides whether an index is accepted is taken over from the machine's entries;
# what only selects (arch, lang, target) is ours to say.
_KEPT_OPTIONS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "valid-until-max": "Valid-Until-Max",
    "check-date": "Check-Date",
    "allow-weak": "Allow-Weak",
    "allow-insecure": "Allow-Insecure",
}
# .../debian, .../debian-security, .../debian/20250101T000000Z as snapshots have it
_DEBIAN_PATH = re.compile(r"/debian(-[a-z]+)?(/[0-9TZ]+)?/?$")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True)
class Entry:
    """One archive of a source list, as far as we need it."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...]

    @property
    def is_debian(self) -> bool:
        """Tell whether this looks like Debian's own archive or a mirror of it."""
        return bool(_DEBIAN_PATH.search(urlsplit(self.uri).path)) and "main" in self.components

    def stanza(self, arch: str) -> str:
        """Return the entry in deb822 style, for binaries of ``arch`` and for sources."""
        lines = [
            "Types: deb deb-src",
            f"URIs: {self.uri}",
            f"Suites: {' '.join(self.suites)}",
            "Components: main",
            f"Architectures: {arch}",
            *(f"{name}: {value}" for name, value in self.options),
        ]
        return "\n".join(lines) + "\n"


def parse_list(text: str) -> Iterator[Entry]:
    """Read the one-line style (``deb [options] uri suite component...``)."""
    line_style = re.compile(r"deb(?:-src)?\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(\S.*)")
    for line in text.splitlines():
        found = line_style.fullmatch(line.split("#", 1)[0].strip())
        if found is None:
            continue
        options, uri, suite, components = found.groups()
        pairs = (word.split("=", 1) for word in (options or "").split() if "=" in word)
        kept = tuple((_KEPT_OPTIONS[k], v) for k, v in pairs if k in _KEPT_OPTIONS)
        yield Entry(uri, (suite,), tuple(components.split()), kept)


def parse_sources(text: str) -> Iterator[Entry]:
    """Read the deb822 style; a Signed-By that holds a whole key keeps its lines."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        kept = tuple((_KEPT_OPTIONS[k], v) for k, v in fields.items() if k in _KEPT_OPTIONS)
        for uri in fields.get("uris", "").split():
            yield Entry(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                kept,
            )


def debian_entries(etc_apt: Path = ETC_APT) -> list[Entry]:
    """Return the Debian entries of an apt configuration directory, each suite once.

    :raises MissingError: there is none.
    """
    parts = etc_apt / "sources.list.d"
    found: dict[tuple[str, str], Entry] = {}
    for path in [etc_apt / "sources.list", *sorted(parts.glob("*"))]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text("utf-8", "replace")
        for entry in (parse_sources if path.suffix == ".sources" else parse_list)(text):
            # deb and deb-src lines of one suite are one entry to us.
            for suite in entry.suites if entry.is_debian else ():
                key = (entry.uri.rstrip("/"), suite)
                found.setdefault(key, replace(entry, suites=(suite,)))
    if not found:
        raise MissingError(
            f"no Debian archive is configured in {etc_apt}",
            hint="this step takes packages from Debian: add a line such as "
            '"deb URI bookworm main" to /etc/apt/sources.list.d/debian.list',
        )
    return list(found.values())


_FULL = 16 << 20


class DebianArchive:
    """Debian's packages of one architecture, indexes and files kept below ``cache``."""

    def __init__(self, cache: Path, arch: str = "amd64") -> None:
        self.arch = arch
        self._root = cache / f"apt-{arch}"
        self._files = self._root / "files"
        self._config = self._root / "apt.conf"
        self._fresh = False

    def version(self, package: str) -> str:
        """Return the version of ``package`` that ``unpack`` would take.

        :raises MissingError: no such package, or the archive cannot be reached.
        """
        with self._locked():
            return self._record(package)["Version"]

    def depends(self, package: str) -> list[str]:
        """Return the names of the packages that ``package`` depends on, the first of each choice.

        :raises MissingError: no such package, or the archive cannot be reached.
        """
        with self._locked():
            field = self._record(package).get("Depends", "")
        return [word.split()[0] for word in field.split(",") if word.split()]

    def unpack(self, package: str, target: Path) -> str:
        """Unpack the newest ``package`` into the directory ``target``; return its version.

        Files are put beside what ``target`` already holds; no maintainer script runs.

        :raises MissingError: no such package, or the archive cannot be reached.
        """
        with self._locked():
            record = self._record(package)
            deb = self._download(package, record["SHA256"])
        target.mkdir(parents=True, exist_ok=True)
        LocalRunner().run(["dpkg-deb", "-x", str(deb), str(target)], timeout=APT_TIMEOUT)
        return record["Version"]

    def source(self, package: str, target: Path) -> Path:
        """Unpack the source package ``package``, Debian's patches applied, as ``target``.

        ``target`` must not exist; it appears only when it is whole.

        :raises InputError: ``target`` exists.
        :raises MissingError: no such package, the archive cannot be reached, or
            dpkg-source is not installed.
        """
        if target.exists():
            raise InputError(f"{target}: exists already")
        with self._locked():
            self._prepare()
            descriptor = self._download_source(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".source-") as scratch:
                tree = Path(scratch) / "tree"
                argv = ["dpkg-source", "--no-copy", "-x", str(descriptor), str(tree)]
                try:
                    LocalRunner().run(argv, timeout=APT_TIMEOUT)
                except MissingError as error:
                    raise MissingError(
                        "dpkg-source: not found on this machine",
                        hint="apt-get install dpkg-dev",
                    ) from error
                tree.rename(target)
        return target

    # -- the private apt ------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs of this program out of the private directories."""
        self._files.mkdir(parents=True, exist_ok=True)
        with (self._root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prepare(self) -> None:
        """Write the configuration and fetch the indexes if they are older than a day."""
        if self._fresh:
            return
        sources = "\n".join(entry.stanza(self.arch) for entry in debian_entries())
        for directory in ("state/lists/partial", "cache/archives/partial"):
            (self._root / directory).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        write_text(self._root / "debian.sources", sources)
        write_text(self._config, self._configuration())
        self._update(hashlib.sha256(sources.encode()).hexdigest())
        self._fresh = True

    def _configuration(self) -> str:
        values = {
            "APT::Architecture": self.arch,
            "APT::Sandbox::User": "root",  # the user _apt cannot enter a private cache
            "APT::Update::Error-Mode": "any",  # an index that failed is no warning to us
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Dir::State": f"{self._root}/state",
            "Dir::State::lists": "lists",
            "Dir::State::status": f"{self._root}/status",
            "Dir::Cache": f"{self._root}/cache",
            "Dir::Cache::archives": "archives",
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "Dir::Etc::sourcelist": f"{self._root}/debian.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        # The machine's own hooks speak of the machine's own directories.
        cleared = ("APT::Architectures", "APT::Update", "DPkg::Post-Invoke", "APT::Default-Release")
        lines = [f"#clear {name};" for name in cleared]
        lines += [f'{name} "{value}";' for name, value in values.items()]
        lines.append(f'APT::Architectures {{ "{self.arch}"; }};')
        return "\n".join(lines) + "\n"

    def _update(self, key: str) -> None:
        stamp = self._root / "updated"
        known = stamp.is_file() and stamp.read_text("utf-8") == key
        if known and 0 <= time.time() - stamp.stat().st_mtime < INDEX_AGE:
            return
        say(f"fetching Debian's package index ({self.arch})")
        result = self._apt("apt-get", "update")
        if not result.ok:
            # apt says of a full disk only that the archive did not answer.
            if shutil.disk_usage(self._root).free < _FULL:
                raise MissingError(
                    f"no space left in {self._root}, where Debian's package index goes",
                    hint="make room there (about 200 MB), or set XDG_CACHE_HOME to another place",
                )
            # A mirror in the middle of its own update breaks single indexes. What apt
            # has kept is signed and complete in itself: enough if it has the package.
            if not any((self._root / "state/lists").glob("*_Packages*")):
                raise self._unreachable(result)
            say(f"warning: {_complaint(result)}; going on with the other and older indexes")
        write_text(stamp, key)

    def _apt(self, tool: str, *argv: str, cwd: Path | None = None) -> Result:
        env: Mapping[str, str] = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        command = [tool, "-q", "-c", str(self._config), *argv]
        return LocalRunner().run(command, cwd=cwd, env=env, timeout=APT_TIMEOUT, check=False)

    def _record(self, package: str) -> dict[str, str]:
        """Return the index's fields of the newest binary package."""
        _check_name(package)
        self._prepare()
        result = self._apt("apt-cache", "--no-all-versions", "show", package)
        fields = dict(
            line.split(": ", 1)
            for line in result.output.splitlines()
            if ": " in line and not line.startswith((" ", "E:", "W:", "N:"))
        )
        if not result.ok or not {"Version", "SHA256"} <= fields.keys():
            raise MissingError(
                f"Debian's archive has no package {package} for {self.arch}: {_complaint(result)}",
                hint="the configured suites must include Debian 12's main component",
            )
        return fields

    def _download(self, package: str, sha256: str) -> Path:
        """Return the package's file, from an earlier download if its digest is right."""
        for deb in self._files.glob(f"{package}_*.deb"):
            if digest(deb) == sha256:
                return deb
            deb.unlink()
        result = self._apt("apt-get", "download", package, cwd=self._files)
        found = list(self._files.glob(f"{package}_*.deb"))
        if not result.ok or len(found) != 1:
            raise self._unreachable(result)
        if digest(found[0]) != sha256:
            found[0].unlink()
            raise FailedError(f"{package}: the archive gave a file with another digest")
        return found[0]

    def _download_source(self, package: str) -> Path:
        _check_name(package)
        argv = ("source", "--only-source", "--download-only", package)
        listing = self._apt("apt-get", "--print-uris", *argv)
        names: list[str] = re.findall(r"^'[^']*' (\S+\.dsc) \d+ ", listing.output, re.MULTILINE)
        if not listing.ok or len(names) != 1:
            raise MissingError(
                f"Debian's archive has no source package {package}: {_complaint(listing)}",
                hint="the configured suites must include Debian 12's main component",
            )
        # apt itself skips what is there already with the right digest.
        result = self._apt("apt-get", *argv, cwd=self._files)
        if not result.ok:
            raise self._unreachable(result)
        return self._files / names[0]

    def _unreachable(self, result: Result) -> MissingError:
        # Perhaps the index is too old for the archive: ask for a new one next time.
        (self._root / "updated").unlink(missing_ok=True)
        return MissingError(
            f"{shlex.join(result.argv[4:])}: Debian's archive did not answer as it should: "
            f"{_complaint(result)}",
            hint="check the network and that apt-get update works on this machine, then repeat",
        )


def _check_name(package: str) -> None:
    if not _PACKAGE.fullmatch(package):
        raise InputError(f"{package!r}: not the name of a Debian package")


def _complaint(result: Result) -> str:
    """Return apt's first error line, or the last line it said."""
    lines = [line.strip() for line in result.output.splitlines() if line.strip()]
    marked: Sequence[str] = [line for line in lines if line.startswith(("E:", "Err:"))]
    return (marked or lines[-1:] or ["no output"])[0]
