# SPDX-License-Identifier: GPL-2.0-or-later
"""Node sets, the cluster file in use, several clusters at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from provision import cluster as clusters
from provision.cli.nodes import nodes_options
from provision.cluster import in_use, is_host, parse_set, select, select_all
from provision.errors import InputError
from provision.lab import state
from provision.lab.state import Lab, LabNode
from provision.paths import labs_dir


def text(prefix: str, count: int, session: int = 1, network: str = "10.0.0") -> str:
    made = f"session = {session}\n"
    for number in range(1, count + 1):
        made += f'[[node]]\nname = "{prefix}{number:02}"\nid = {number}\n'
        made += f'address = "{network}.{number}"\n'
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current directory with a cluster.toml of the nodes krg01 to krg12."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KRG_CLUSTER", raising=False)
    monkeypatch.setattr(clusters, "PLACES", (Path("cluster.toml"), tmp_path / "etc/cluster.toml"))
    (tmp_path / "cluster.toml").write_text(text("krg", 12))
    return tmp_path


def names(chosen: clusters.Cluster) -> list[str]:
    return [node.name for node in chosen.selected]


def wrong(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        select(*arguments)
    assert caught.value.exit_code == 2 and "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("nodes", "exclude", "numbers"),
    [
        ("krg[01-03]", None, [1, 2, 3]),
        ("krg[01-12]", "krg[02,05-11]", [1, 3, 4, 12]),
        ("krg12,krg01", None, [1, 12]),
        (" krg01 , krg[03-04] ", None, [1, 3, 4]),
        ("krg[01-05]!krg[02-03]", None, [1, 4, 5]),
        ("krg[01-05] & krg[04-09]", None, [4, 5]),
        ("krg[01-09/4]", None, [1, 5, 9]),
        ("cluster.toml", "krg[01-11]", [12]),
        ("./cluster.toml", None, list(range(1, 13))),
    ],
)
def test_sets(here: Path, nodes: str, exclude: str | None, numbers: list[int]) -> None:
    chosen = select(nodes, exclude)
    assert names(chosen) == [f"krg{number:02}" for number in numbers]
    # Each node has to know all of them.
    assert chosen.nodes_file().count("\n") == 14


@pytest.mark.parametrize(
    ("nodes", "exclude", "says"),
    [
        ("krg13", None, "no node krg13 in cluster.toml; did you mean krg"),
        ("krg[1-3]", None, "no node krg[1-3] in cluster.toml; did you mean krg01?"),
        ("krg1", None, "did you mean krg01?"),
        ("kgr02", None, "did you mean krg02?"),
        ("krg01", "krg0", "no node krg0 in cluster.toml"),
        ("krg01", "krg[01-02]", "no node is left of krg01 without krg[01-02]"),
        ("krg01!krg01", None, "node set 'krg01!krg01' is empty"),
        ("", None, "the node set is empty"),
        ("krg[01-", None, "missing bracket"),
        ("krg[03-01]", None, "node set 'krg[03-01]': bad range"),
        ("krg[a]", None, "bad range"),
        ("krg01,", None, "missing nodeset operand"),
        ("krg01 krg02", None, "' ' cannot be in a node's name"),
        ("@all", None, "'@' cannot be"),
        ("krg*", None, "'*' cannot be"),
        ("krg01;id", None, "';' cannot be"),
        ("krg[\u0661-\u0663]", None, "cannot be in a node's name"),
        ("krg[0-999999999]", None, "too many nodes"),
        ("krg[0-999][0-999]", None, "too many nodes"),
        ("krg[0-99999999]!krg[0-99999998]", None, "too many nodes"),
        ("x" * 50000, None, "too many nodes"),
        ("no/file", None, "no/file: no such file"),
        ("other.toml", None, "other.toml: no such file"),
        ("lab:none", None, "no lab none is up"),
        ("lab:../x", None, "'../x' cannot name a lab"),
    ],
)
def test_what_is_no_set_of_nodes(
    here: Path, home: Path, nodes: str, exclude: str | None, says: str
) -> None:
    assert says in (wrong(nodes) if exclude is None else wrong(nodes, exclude))


def test_cluster_file_in_use(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_use() == Path("cluster.toml")
    (here / "etc").mkdir()
    (here / "cluster.toml").rename(here / "etc/cluster.toml")
    assert names(select("krg01")) == ["krg01"]
    (here / "room2.toml").write_text(text("b", 2))
    monkeypatch.setenv("KRG_CLUSTER", "room2.toml")
    assert names(select("b02")) == ["b02"]
    assert names(select("krg01", cluster=here / "etc/cluster.toml")) == ["krg01"]
    (here / "etc/cluster.toml").unlink()
    monkeypatch.delenv("KRG_CLUSTER")
    assert "no cluster file in use" in wrong("krg01")


def test_a_kerrighed_nodes_file_beside_is_a_file(here: Path) -> None:
    (here / "kerrighed_nodes").write_text(
        "session = 1\n192.168.0.103:1:eth1\n192.168.0.104:2:eth1\n"
    )
    assert names(select("kerrighed_nodes", "192.168.0.103")) == ["192.168.0.104"]
    # Names that are addresses make sets too.
    chosen = select("192.168.0.[103-104]", cluster=here / "kerrighed_nodes")
    assert len(names(chosen)) == 2


def test_a_labs_nodes(here: Path, home: Path) -> None:
    made = Lab("demo", 1, "b", "i386", "r", 1, "tcg", 0.0, (LabNode(1, "u"),), "none")
    made.directory.mkdir(parents=True)
    state.save(made)
    assert "lab demo has no boot loader and no SSH" in wrong("lab:demo")
    state.save(replace(made, bootloader="legacy"))
    (made.directory / "cluster.toml").write_text(text("node", 2))
    assert names(select("lab:demo", "node01")) == ["node02"]


def test_a_file_that_is_called_as_a_node(here: Path) -> None:
    (here / "krg01").write_text("session = 1\nx:1\n")
    assert "krg01 is a file here and a node of cluster.toml" in wrong("krg01")
    assert names(select("./krg01")) == ["x"]
    assert names(select("krg[01-02]")) == ["krg01", "krg02"]


@pytest.mark.parametrize(("ends", "code"), [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((3, 1), 3)])
def test_a_command_is_called_for_each_cluster(here: Path, ends: tuple[int, ...], code: int) -> None:
    (here / "b.toml").write_text(text("b", 3, session=2))
    seen = []

    @click.command()
    @nodes_options
    @click.option("--forks", default=1)
    def work(*, cluster: clusters.Cluster, forks: int) -> None:
        seen.append((cluster.session, len(cluster.selected), forks))
        sys.exit(ends[len(seen) - 1])

    words = ["--nodes", "krg[01-03]", "--nodes", "b.toml", "--exclude", "b01", "--forks", "4"]
    done = CliRunner().invoke(work, words)
    assert (done.exit_code, seen) == (code, [(1, 3, 4), (2, 2, 4)])


def test_completion(here: Path, home: Path) -> None:
    def offered(*words: str) -> list[str]:
        from click.shell_completion import ShellComplete

        from provision.cli import cli

        found = ShellComplete(cli, {}, "krg-provision", "X").get_completions(
            list(words[:-1]), words[-1]
        )
        return [item.value for item in found if item.type != "file"]

    assert offered("deploy", "--nodes", "krg0") == [f"krg0{number}" for number in range(1, 10)]
    assert offered("status", "--exclude", "krg1") == ["krg10", "krg11", "krg12"]
    (here / "b.toml").write_text(text("b", 2))
    assert offered("status", "--cluster", "b.toml", "--nodes", "") == ["b01", "b02"]
    (labs_dir() / "demo").mkdir(parents=True)
    (labs_dir() / "demo/lab.json").write_text("{}")
    assert offered("status", "--nodes", "lab") == ["lab:demo"]
    (here / "cluster.toml").write_text("broken")
    assert offered("status", "--nodes", "krg") == []


def test_several_clusters(here: Path) -> None:
    (here / "b.toml").write_text(text("b", 3, session=2))
    one, two = select_all(["cluster.toml", "b.toml"], ["krg[02-12]", "b03"])
    assert (names(one), names(two)) == (["krg01"], ["b01", "b02"])
    # The same file, named in two ways, is one cluster; sets of it are joined.
    (only,) = select_all(["krg01", "krg[03-04]", "krg03"])
    assert names(only) == ["krg01", "krg03", "krg04"]
    (only,) = select_all(["krg01", str(here / "cluster.toml")])
    assert len(names(only)) == 12
    # Nothing is left of one of them: the other is worked on.
    (only,) = select_all(["cluster.toml", "b.toml"], ["krg[01-12]"])
    assert names(only) == ["b01", "b02", "b03"]


@pytest.mark.parametrize(
    ("network", "session", "extra", "refused"),
    [
        ("10.0.0", 1, "", True),
        ("10.0.0", 2, "", False),
        ("10.0.1", 1, "", False),
        ("10.0.0", 1, '[defaults]\ninterface = "eth1"\njump = "gate"\n', False),
    ],
)
def test_one_session_per_wire(
    here: Path, network: str, session: int, extra: str, refused: bool
) -> None:
    made = text("b", 3, session, network)
    head, _, nodes = made.partition("\n")
    (here / "b.toml").write_text(f"{head}\n{extra}{nodes}")
    if not refused:
        assert len(select_all(["cluster.toml", "b.toml"])) == 2
        return
    with pytest.raises(InputError) as caught:
        select_all(["cluster.toml", "b.toml"])
    assert "b.toml:2: node b01 and node krg01 (cluster.toml:2) can be on one wire" in str(
        caught.value
    )


@given(st.text(st.sampled_from("krg0123456789[]-,!&^/. @*;'\"\\$`\n\u00e9\u0661"), max_size=30))
def test_any_set_is_read_or_refused(given_text: str) -> None:
    try:
        found = parse_set(given_text)
    except InputError as error:
        assert "\n" not in error.message
        return
    assert len(found) <= 4096
    for name in found:
        assert not set(name) & set(" @*;'\"\\$`\n\u00e9\u0661"), name


@given(st.lists(st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True), min_size=1, max_size=20))
def test_names_that_are_folded_come_back(given_names: list[str]) -> None:
    from provision.plan import fold

    assert set(parse_set(fold(given_names))) == set(given_names)
    assert all(is_host(name) for name in given_names)
