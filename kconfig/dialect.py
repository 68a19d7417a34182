# SPDX-License-Identifier: GPL-2.0-or-later
"""Where kernels of different ages understand Kconfig differently, as data.

Kconfiglib follows the kernel's own program (scripts/kconfig/conf) as it was around
Linux 5.0. Each ``Rule`` is one way in which the program of other kernels differs in
what it reads, computes or writes; the module named does what the rule says.

Dates up to 2.6.30 are those at which the programs of v2.6.20 to v2.6.30 change, one by one
(tests/kconfig_rules.toml). Later ones are from memory: that a change lies between 2.6.30
and 6.1, or between 6.1 and 6.12, was compared; the release in between was not.
How the text of Kconfig files
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
DOUBTED_CHOICES = Rule(
    "doubted-choices",
    "reading",
    "A choice of which a visible member has no value loses the mode it had in the file once "
    "something changes, and is asked for again; later defconfig gives back its mode to one "
    "that was given both m and y.",
    until=(3, 12, 0),
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
    "nothing; later by the default's own condition.",
    until=(2, 6, 25),
)
EARLY_VALUES = Rule(
    "early-values",
    "values",
    "= and != compare text, never numbers; an invisible symbol is written when a default is "
    "in force, be it n; a choice at y may have a member that could only "
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
FRESH_DEFCONFIG = Rule(
    "fresh-defconfig",
    "targets",
    "Without a walk, defconfig computes every value anew after reading; in 2.6.27 values stay "
    "as they were when the file was read.",
    since=(2, 6, 28),
)
ANSWERS_KNOWN = Rule(
    "answers-known",
    "walk",
    "oldconfig sets again what it knows already, by which a hex value gets its 0x; later "
    "only what is new.",
    until=(2, 6, 23),
)
FIRST_BELOW = Rule(
    "first-below",
    "walk",
    "Of the questions below a member of a choice only the first is asked with it; one that has "
    "no answer is then asked for without end.",
    until=(2, 6, 25),
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
    "Hidden members of a choice that was visible once are written too.",
    until=(2, 6, 37),
)
END_COMMENTS = Rule(
    "end-comments",
    "write",
    "A menu ends with a comment `# end of`; what is written next comes after a blank line.",
    since=(5, 2, 0),
)
SHELL = Rule("shell", "shell", "Kconfig files run commands while they are read.", since=(4, 18, 0))

RULES = tuple(value for value in globals().values() if isinstance(value, Rule))
