# SPDX-License-Identifier: GPL-2.0-or-later
"""Where kernels of different ages understand Kconfig differently, as data.

Kconfiglib follows the kernel's own program (scripts/kconfig/conf) as it was around
Linux 5.0. Each ``Rule`` is one way in which the program of other kernels differs in
what it reads, computes or writes; the modules named do what the rule says. Which
kernels a rule holds for comes from the history of scripts/kconfig, and is
checked by ``python -m kconfig.parity`` against the programs themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Rule:
    """Holds for kernels from ``since`` to before ``until``; ``module`` implements it."""

    name: str
    what: str
    module: str
    since: Version = (0, 0, 0)
    until: Version = (999, 0, 0)

    def holds(self, version: Version) -> bool:
        """Return whether kernel ``version`` behaves so."""
        return self.since <= version < self.until


FIRST_WINS = Rule(
    "first-wins",
    "of two assignments to a symbol, or two members of a choice set to y, the first counts",
    "reading",
    until=(2, 6, 25),
)
CAPPED_DEFAULTS = Rule(
    "capped-defaults",
    "a default is capped by the visibility of its symbol, not by its own condition, when the "
    "symbol is visible or selected, and by nothing otherwise",
    "values",
    until=(2, 6, 25),
)
MIXED_CHOICES = Rule(
    "mixed-choices",
    "a bool in a tristate choice can be had while the choice is m",
    "values",
    until=(2, 6, 25),
)
PLAIN_COMPARISON = Rule(
    "plain-comparison", "= and != compare text, never numbers", "values", until=(3, 15, 0)
)
M_IN_Y_CHOICE = Rule(
    "m-in-y-choice",
    "a member that can only be m can be the one a choice has",
    "values",
    until=(3, 19, 0),
)
WALK = Rule(
    "walk",
    "defconfig and all*config ask every question in the order of the menus, and an answer "
    "is final; later they set everything at once",
    "walk",
    until=(2, 6, 27),
)
ANSWERS_KNOWN = Rule(
    "answers-known",
    "oldconfig sets again what it knows already; a hex value gets its 0x by that",
    "walk",
    until=(2, 6, 23),
)
FORGETS_INVISIBLE = Rule(
    "forgets-invisible",
    "a value read for a symbol that is then invisible is forgotten at once; later only when "
    "the whole file agrees with the tree",
    "reading",
    until=(2, 6, 23),
)
WRITES_MORE = Rule(
    "writes-more",
    "is-not-set lines also for invisible symbols with an active default and for members of "
    "a visible choice; the list of default configurations; no end-of-menu comments",
    "write",
    until=(2, 6, 37),
)
WEAK_IMPLY = Rule(
    "weak-imply",
    "what y implies may end as m, and an implied symbol is written whatever its value",
    "values",
    since=(5, 7, 0),
)
ASKS = Rule(
    "asks",
    "there is only oldconfig, which asks; later olddefconfig just takes defaults",
    "walk",
    until=(3, 7, 0),
)
LOOPS = Rule(
    "loops",
    "symbols may depend on themselves: whoever asks while the answer is being worked out is told n",
    "tree",
    until=(2, 6, 22),
)
OWN_READING = Rule(
    "own-reading",
    "values read are checked again after the whole file was read",
    "reading",
    until=(2, 6, 37),
)
SHELL = Rule("shell", "Kconfig files run commands while they are read", "shell", since=(4, 18, 0))
LISTED_CHOICES = Rule(
    "listed-choices",
    "choices are bool; of several members set to y the last is taken; a default set to n is "
    "passed over",
    "values",
    since=(6, 10, 0),
)
ZERO_NUMBERS = Rule(
    "zero-numbers",
    "a number without a default is 0; out of its range it becomes the nearest bound, as the "
    "Kconfig file spells it, also when the user gave it",
    "values",
    since=(6, 9, 0),
)

RULES = tuple(value for value in globals().values() if isinstance(value, Rule))
