# SPDX-License-Identifier: GPL-2.0-or-later
"""A boot loader's kernel line: the path, and the arguments that are handed to the kernel.

Values in, values out. Sources: Documentation/kernel-parameters.txt; GRUB 0.97 manual, "Filesystem".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Words on a kernel line that ask for a shell and a person at the keyboard.
_SINGLE = frozenset({"single", "1", "S", "s", "-s", "-b", "emergency", "rescue", "recovery"})
_SHELL = re.compile(r"(?:rd)?init=\S*sh|(?:rd\.)?systemd\.unit=(?:rescue|emergency)\.target")


@dataclass(frozen=True)
class Kernel:
    """A kernel line: the path as GRUB sees it, and what is handed to the kernel."""

    path: str
    arguments: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """Return the value of the last ``name=value`` argument, or None."""
        found = [a.partition("=")[2] for a in self.arguments if a.startswith(name + "=")]
        return found[-1] if found else None

    @property
    def starts_alone(self) -> bool:
        """Tell whether it is Linux with a root=, and asks for no shell or single-user work."""
        if self.value("root") is None:
            return False
        return not any(a in _SINGLE or _SHELL.fullmatch(a) for a in self.arguments)


def with_arguments(
    arguments: Iterable[str], ours: Sequence[tuple[str, str]], extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return ``arguments`` with every name of ``ours`` set once, right after root=.

    There, because a kernel cuts a line that is too long at its end. ``extra`` comes last.
    """
    names = tuple(f"{name}=" for name, _ in ours)
    kept = [a for a in arguments if not a.startswith(names) and a not in extra]
    at = 1 + max((n for n, a in enumerate(kept) if a.startswith("root=")), default=-1)
    return (*kept[:at], *(f"{name}={value}" for name, value in ours), *kept[at:], *extra)


def path(model: Kernel, name: str, *, boot_is_separate: bool) -> str:
    """Return GRUB's path of the file ``name`` in /boot, as the known good entry spells it.

    With /boot on a file system of its own GRUB sees no /boot in its paths; a device
    such as ``(hd0,0)`` before the path is kept.
    """
    device = re.match(r"\([^)]*\)", model.path)
    prefix = device.group() if device else ""
    if model.path[len(prefix) :].startswith("/boot/"):
        return f"{prefix}/boot/{name}"
    return f"{prefix}/{name}" if boot_is_separate else f"{prefix}/boot/{name}"
