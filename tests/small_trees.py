# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel trees of a screenful of Kconfig: written by hand, or thrown with dice."""

from __future__ import annotations

import random
from pathlib import Path

Version = tuple[int, int, int]


def make(where: Path, kconfig: str, version: Version) -> Path:
    """Write a tree that has nothing but ``kconfig``, for x86_64."""
    old = version < (2, 6, 24)
    arch = "x86_64" if old else "x86"
    (where / "arch" / arch).mkdir(parents=True, exist_ok=True)
    numbers = zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), version, strict=True)
    (where / "Makefile").write_text("".join(f"{k} = {v}\n" for k, v in numbers))
    (where / "arch" / arch / "Kconfig").write_text(kconfig)
    if version >= (2, 6, 37):
        (where / "Kconfig").write_text(f'source "arch/{arch}/Kconfig"\n')
    return where


class Dice:
    """Writes a random Kconfig; symbols refer only to earlier ones, so there are no loops."""

    def __init__(self, seed: object, version: Version) -> None:
        self.dice = random.Random(str(seed))
        self.version = version
        self.lines: list[str] = []
        self.truths: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.tristates: set[str] = set()
        self.forms: dict[str, str] = {}
        self.count = 0

    def text(self) -> str:
        """Return the Kconfig."""
        modules = "\tmodules\n" if self.version >= (5, 14, 0) else ""
        prompt = '\tbool "modules"\n'
        if self.maybe(0.5):
            prompt += "\tdefault y\n"
        self.lines.append(f"config MODULES\n{prompt}{modules}")
        self.truths.append("MODULES")
        self.forms["MODULES"] = "MODULES"
        self.block(self.dice.randint(4, 14), 0)
        return "\n".join(self.lines) + "\n"

    def maybe(self, chance: float) -> bool:
        return self.dice.random() < chance

    def term(self) -> str:
        """Return a term; a symbol is always asked for in one form.

        So expressions never contradict themselves. What the programs make of "A && !A"
        depends on what they simplify, and no kernel has it.
        """
        if self.texts and self.maybe(0.15):
            name, of = self.dice.choice(self.texts)
            value = {"int": '"8"', "hex": '"0x10"', "string": '"a"'}[of]
            forms = [f"{name} = {value}", f"{name} != {value}"]
        elif self.maybe(0.03):
            return self.dice.choice(["y", "m", "NOSUCH"])
        else:
            name = self.dice.choice(self.truths)
            forms = [name, name, name, f"!{name}", f"{name} = y", f"{name} != n", f"{name} = n"]
            if name in self.tristates:
                forms += [f"{name} = m", f"{name} != y", f"{name} != m"]
        return self.forms.setdefault(name, self.dice.choice(forms))

    def expression(self, depth: int = 0) -> str:
        """Return an expression over earlier symbols."""
        if depth > 1 or self.maybe(0.5):
            return self.term()
        left, right = self.expression(depth + 1), self.expression(depth + 1)
        return f"({left}) {self.dice.choice(['&&', '||'])} ({right})"

    def condition(self, chance: float = 0.4) -> str:
        return f" if {self.expression()}" if self.maybe(chance) else ""

    def block(self, size: int, depth: int) -> None:
        """Write ``size`` things one after the other."""
        for _ in range(size):
            kind = self.dice.random()
            if depth < 2 and kind < 0.1:
                self.lines.append(f'menu "menu {self.count}"')
                if self.maybe(0.5):
                    self.lines.append(f"\tdepends on {self.expression()}")
                if self.version >= (2, 6, 37) and self.maybe(0.3):
                    self.lines.append(f"\tvisible if {self.expression()}")
                self.block(self.dice.randint(1, 4), depth + 1)
                self.lines.append("endmenu")
            elif depth < 2 and kind < 0.2:
                self.lines.append(f"if {self.expression()}")
                self.block(self.dice.randint(1, 3), depth + 1)
                self.lines.append("endif")
            elif kind < 0.25:
                self.lines.append(f'comment "comment {self.count}"')
                if self.maybe(0.5):
                    self.lines.append(f"\tdepends on {self.expression()}")
            elif kind < 0.4:
                self.choice()
            else:
                self.symbol()

    def name(self) -> str:
        self.count += 1
        return f"S{self.count}"

    def symbol(self) -> None:
        """Write one symbol."""
        name = self.name()
        kind = self.dice.choice(["bool", "tristate", "tristate", "bool", "int", "hex", "string"])
        menu = "menuconfig" if self.maybe(0.1) else "config"
        prompt = f' "{name.lower()}"{self.condition()}' if self.maybe(0.75) else ""
        lines = [f"{menu} {name}", f"\t{kind}{prompt}"]
        if not prompt and menu == "menuconfig":
            lines[0] = f"config {name}"
        if self.maybe(0.5):
            lines.append(f"\tdepends on {self.expression()}")
        for _ in range(self.dice.randint(0, 2)):
            value = {
                "bool": self.expression,
                "tristate": self.expression,
                "int": lambda: self.dice.choice(["6", "5", "8", "60"]),
                "hex": lambda: self.dice.choice(["0x9", "0x10", "20", "0x3f"]),
                "string": lambda: self.dice.choice(['""', '"a"', '"b c"']),
            }[kind]()
            # What another number is may be nothing, and then old programs ask for ever.
            answered = not prompt or self.version >= (2, 6, 37)
            if kind in ("int", "hex") and answered and self.maybe(0.15):
                same = [n for n, of in self.texts if of == kind]
                value = self.dice.choice(same) if same else value
            lines.append(f"\tdefault {value}{self.condition()}")
        if kind in ("int", "hex") and self.version < (2, 6, 37):
            # They do so for a number without a default, too.
            lines.append(f"\tdefault {'8' if kind == 'int' else '0x10'}")
        if kind in ("int", "hex") and self.maybe(0.5):
            low, high = ("4", "64") if kind == "int" else ("0x8", "0x40")
            lines.append(f"\trange {low} {high}{self.condition(0.3)}")
        self.lines += lines
        if kind == "tristate":
            self.tristates.add(name)
        if kind in ("bool", "tristate"):
            self.selects(name)
            self.truths.append(name)
        else:
            self.texts.append((name, kind))

    def selects(self, name: str) -> None:
        """Let a symbol select or imply one that comes right after it."""
        if not self.maybe(0.3):
            return
        word = "imply" if self.version >= (4, 10, 0) and self.maybe(0.5) else "select"
        other = self.name()
        self.lines.append(f"\t{word} {other}{self.condition()}")
        kind = self.dice.choice(["bool", "tristate"])
        prompt = f' "{other.lower()}"{self.condition()}' if self.maybe(0.6) else ""
        self.lines += [f"config {other}", f"\t{kind}{prompt}"]
        if kind == "tristate":
            self.tristates.add(other)
        if self.maybe(0.5):
            self.lines.append(f"\tdepends on {self.expression()}")
        if self.maybe(0.3):
            self.lines.append(f"\tdefault {self.expression()}{self.condition()}")
        self.truths.append(other)

    def choice(self) -> None:
        """Write a choice."""
        listed = self.version >= (6, 10, 0)
        kind = "bool" if listed or self.maybe(0.6) else "tristate"
        members = [self.name() for _ in range(self.dice.randint(1, 4))]
        kinds = [kind if self.maybe(0.85) or listed else "bool" for _ in members]
        prompt = f'"choice {members[0]}"{self.condition(0.3)}'
        self.lines += ["choice", f"\tprompt {prompt}" if listed else f"\t{kind} {prompt}"]
        if self.maybe(0.4):
            self.lines.append(f"\tdepends on {self.expression()}")
        if not listed and self.maybe(0.15):
            self.lines.append("\toptional")
        for _ in range(self.dice.randint(0, 2)):
            self.lines.append(f"\tdefault {self.dice.choice(members)}{self.condition()}")
        earlier = list(self.truths)
        for member, of in zip(members, kinds, strict=True):
            self.lines.append(f"config {member}")
            self.lines.append(f'\t{of} "{member.lower()}"{self.condition(0.3)}')
            if self.maybe(0.3):
                self.lines.append(f"\tdepends on {self.expression()}")
        self.lines.append("endchoice")
        self.truths = earlier + members
