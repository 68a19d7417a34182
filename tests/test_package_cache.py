# SPDX-License-Identifier: GPL-2.0-or-later
"""Which .deb files on a node go away: none that a rollback would look for."""

from __future__ import annotations

import pytest

from provision import journal, node_packages, package_cache, plan
from provision.facts import Facts
from provision.node_packages import CACHE, Package
from provision.plan import Plan, Wanted

NEW = "kerrighed-tools_9_amd64.deb"
COMING = Package("kerrighed-tools", "9", "amd64", Wanted(f"{CACHE}/{NEW}", "0" * 64, 1, 0o644))


def run(number: int, before: str, after: str, state: str = "done") -> tuple[str, bytes]:
    name = f"202611{number:02}T000000Z-{number:016x}"
    about = f"command deploy\nnumber {number}\npackage kerrighed-tools {before} {after} amd64"
    return f"journal {name}", f"state {state}\n{about}\n".encode()


def node(*runs: tuple[str, bytes], installed: str, cached: tuple[str, ...]) -> Facts:
    lines = [f"package kerrighed-tools {installed} install ok installed"]
    lines += [f"cached {name}" for name in cached]
    return Facts(words={"uid": "0"}, blobs={"packages": "\n".join(lines).encode(), **dict(runs)})


def versions(*numbers: int) -> tuple[str, ...]:
    return tuple(f"kerrighed-tools_{number}_amd64.deb" for number in numbers)


@pytest.mark.parametrize(
    ("runs", "installed", "gone"),
    [
        # Installed now, and what the next rollback brings back.
        ([run(1, "-", "2"), run(2, "2", "3")], "3", [1, 4]),
        ([run(1, "-", "2", "rolled-back"), run(2, "1", "4")], "4", [2, 3]),
        # Interrupted: nobody knows how far it came.
        ([run(1, "-", "2"), run(2, "2", "3", "begun")], "2", [1, 3, 4]),
        # Those of runs that go away with this one.
        ([run(n, "1" if n == 1 else "3", "3") for n in range(1, 8)], "3", [1, 2, 4]),
        ([], "-", [1, 2, 3, 4]),
    ],
)
def test_what_goes(runs: list[tuple[str, bytes]], installed: str, gone: list[int]) -> None:
    foreign = ("other_1_all.deb", "kerrighed-tools.deb", "linux-image-amd64.deb")
    facts = node(*runs, installed=installed, cached=(*versions(1, 2, 3, 4), NEW, *foreign))
    found = package_cache.unneeded([COMING], facts)
    assert found == tuple(f"{CACHE}/{name}" for name in versions(*gone))
    # Whatever can be taken back after this run still finds its packages.
    kept = journal.standing(journal.read(facts))
    expendable = journal.expendable(journal.read(facts))
    for one in kept:
        wanted = node_packages.brings_back(one.about["package"])
        if one.name not in expendable:
            assert not wanted & {("kerrighed-tools", str(number)) for number in gone}
    assert package_cache.unneeded([], facts) == ()


def test_packages_of_any_module() -> None:
    """They are called after it; dpkg is asked for all that are called so."""
    stay = ("ring-modules-2.6.20_2_amd64.deb", "ring-service_2_amd64.deb")
    go = ("ring-modules-2.6.20_1_amd64.deb", "ring-service_1_amd64.deb")
    said = "\n".join(
        [f"package {name.split('_')[0]} 2 install ok installed" for name in stay]
        + [f"cached {name}" for name in (*stay, *go)]
    )
    facts = Facts(blobs={"packages": said.encode()})
    assert package_cache.unneeded([COMING], facts) == tuple(f"{CACHE}/{name}" for name in go)


def test_it_is_part_of_the_plan() -> None:
    path = f"{CACHE}/{versions(1)[0]}"
    made = Plan("krg1", runs=("true",), drops=(path,))
    (shown,) = plan.show([made])
    assert shown == ("krg1", f"run true\nremove {path} (nothing needs it any more)")
    assert plan.as_plan_json(made)["drops"] == [path]
