# SPDX-License-Identifier: GPL-2.0-or-later
"""Where kernels of different ages understand Kconfig differently, as data.

Kconfiglib follows the kernel's own program (scripts/kconfig/conf) as it was around
Linux 5.0. Each ``Rule`` is one way in which the program of other kernels differs in
what it reads, computes or writes; the module named does what the rule says.

Versions up to 2.6.30 come from the history of scripts/kconfig. Of later ones only 6.1
and 6.12 were compared: a change between 2.6.30 and 6.1, or between 6.1 and 6.12, is dated
by what is known of it, and may be off by some releases. How the text of Kconfig files
is bridged is in kconfig/bridge.py.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Rule:
    """Holds for kernels from ``since`` to before ``until``; ``module`` implements it."""

    name: str
    module: str
    what: str
    since: Version = (0, 0, 0)
    until: Version = (999, 0, 0)

    def holds(self, version: Version) -> bool:
        """Return whether kernel ``version`` behaves so."""
        return self.since <= version < self.until


FIRST_WINS = Rule(
    "first-wins",
    "reading",
    "Of two assignments to a symbol, or two members of a choice set to y, the first counts; "
    "later the last.",
    until=(2, 6, 25),
)
LOOSE_LINES = Rule(
    "loose-lines",
    "reading",
    "`#CONFIG_X is not set` is read with any character after the #; an invalid value for a "
    "member of a choice repeats the member's former one.",
    until=(2, 6, 37),
)
EXACT_UNSET = Rule(
    "exact-unset", "reading", "Nothing may follow `is not set` on its line.", since=(6, 9, 0)
)
FORGETS_INVISIBLE = Rule(
    "forgets-invisible",
    "reading",
    "A value read for a symbol that is then invisible is forgotten at once; later only when "
    "the whole file agrees with the tree.",
    until=(2, 6, 23),
)
LOOPS = Rule(
    "loops",
    "tree",
    "Symbols may depend on themselves (SMP and X86_NUMAQ on i386): whoever asks while the "
    "answer is being worked out is told n. Kconfiglib refuses such a tree.",
    until=(2, 6, 22),
)
CAPPED_DEFAULTS = Rule(
    "capped-defaults",
    "values",
    "When a symbol is visible or selected its default is capped by its visibility, else by "
    "nothing; later by the default's own condition. A bool in a tristate choice can be had "
    "while the choice is m.",
    until=(2, 6, 25),
)
EARLY_VALUES = Rule(
    "early-values",
    "values",
    "= and != compare text, never numbers; a choice at y may have a member that could only "
    "be m; a tristate member is a bool only while it is fully visible.",
    until=(2, 6, 37),
)
BOOL_CONDITIONS = Rule(
    "bool-conditions",
    "tree",
    "What depends on `X != n` in a symbol that is no tristate depends on X: what a bool "
    "selects may end as m by that.",
    until=(2, 6, 37),
)
WEAK_IMPLY = Rule(
    "weak-imply",
    "values",
    "What y implies may end as m; an implied symbol is written whatever its value.",
    since=(5, 7, 0),
)
ZERO_NUMBERS = Rule(
    "zero-numbers",
    "values",
    "A number without a default is 0. Out of its range, even by the user's wish, it becomes "
    "the nearest bound as the Kconfig file spells it; before, such a wish was forgotten.",
    since=(6, 9, 0),
)
LISTED_CHOICES = Rule(
    "listed-choices",
    "values",
    "Choices are bool. The member set to y last is taken; a default that the user set to n "
    "is passed over; all*config leave members alone.",
    since=(6, 10, 0),
)
WALK = Rule(
    "walk",
    "walk",
    "defconfig and all*config ask every question in the order of the menus, and an answer "
    "is final; later everything is set at once.",
    until=(2, 6, 27),
)
ANSWERS_KNOWN = Rule(
    "answers-known",
    "walk",
    "oldconfig sets again what it knows already, by which a hex value gets its 0x; later "
    "only what is new.",
    until=(2, 6, 23),
)
ASKS = Rule(
    "asks",
    "walk",
    "There is only oldconfig, which asks what is new; later olddefconfig takes defaults.",
    until=(3, 7, 0),
)
WRITES_MORE = Rule(
    "writes-more",
    "write",
    "`is not set` is also written for invisible symbols with an active default and for hidden "
    "members of a visible choice, and the list of default configurations is written; there "
    "are no `# end of` comments.",
    until=(2, 6, 37),
)
SHELL = Rule("shell", "shell", "Kconfig files run commands while they are read.", since=(4, 18, 0))

RULES = tuple(value for value in globals().values() if isinstance(value, Rule))
