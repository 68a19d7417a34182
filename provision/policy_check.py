# SPDX-License-Identifier: GPL-2.0-or-later
"""A build's configuration against its policies, rule by rule: values in, values out.

``config lint`` says what is wrong; here it is also said what was checked and holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kconfig import config_file, known, lint, policy
from kconfig.condition import hold
from kconfig.crosscheck import cmdline_facts
from kconfig.errors import KconfigError
from kconfig.finding import Finding
from kconfig.policy import Policy, Rule
from provision.errors import InputError


@dataclass(frozen=True)
class Checked:
    """What was checked and found.

    ``rules`` are those in force for this kernel, ``waiting`` those that depend on what is not
    known, such as the file system of the root.
    """

    policies: tuple[Policy, ...]
    rules: tuple[Rule, ...]
    waiting: tuple[Rule, ...]
    findings: tuple[Finding, ...]
    ignored: int = 0
    note: str | None = None

    @property
    def held(self) -> tuple[Rule, ...]:
        """Return the rules in force that the configuration keeps."""
        broken = {finding.rule for finding in self.findings}
        return tuple(rule for rule in self.rules if rule.name not in broken)

    def count(self, severity: str) -> int:
        """Return how many findings there are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)


def check(text: str, names: Iterable[str], arch: str, cmdline: str | None = None) -> Checked:
    """Check the text of a .config.

    :param names: of the policies that it was made with; without any, those made for its kernel.
    :param cmdline: of a node that runs it, for the rules that depend on it.
    :raises InputError: it is no configuration.
    """
    try:
        config = config_file.parse(text, "config")
    except KconfigError as error:
        raise InputError(f"the build's configuration: {error}") from error
    policies, note = _policies([name for name in names if name != "none"], config.version)
    facts = {} if cmdline is None else cmdline_facts(cmdline)
    version = config.version or next((one.kernel for one in policies if one.kernel), None)
    subject = lint.Subject(config, version, arch or config.arch, facts)
    found, ignored = known.ignore(lint.lint(subject, policies), config)
    values = {name: one.value for name, one in subject.assigned.items()}
    rules: list[Rule] = []
    waiting: list[Rule] = []
    for one in policies:
        for rule in policy.applicable(one.rules, version, subject.arch)[0]:
            # As lint.check takes it: a condition of which nothing is known is not met.
            holds = hold(rule.when, values, facts)
            if holds:
                rules.append(rule)
            elif holds is None:
                waiting.append(rule)
    return Checked(tuple(policies), tuple(rules), tuple(waiting), tuple(found), len(ignored), note)


def _policies(
    names: Sequence[str], version: policy.Version | None
) -> tuple[Sequence[Policy], str | None]:
    try:
        if names:
            return [policy.load(name) for name in names], None
    except KconfigError as error:
        return policy.for_kernel(version), (
            f"made with {', '.join(names)}, which cannot be read here ({error}): checked against "
            "those shipped for its kernel"
        )
    return policy.for_kernel(version), None
