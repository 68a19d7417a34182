# SPDX-License-Identifier: GPL-2.0-or-later
"""What the shells complete: real shells, with the files that the Debian package installs."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from test_cli import HEAVY
from test_man import commands

from provision.cli import COMMANDS
from provision.paths import builds_dir, labs_dir

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60.0
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of what debian/rules makes out of the program."""
    if shutil.which("make") is None:
        pytest.skip("no make: apt-get install make")
    place = tmp_path_factory.mktemp("generated")
    done = subprocess.run(
        ["make", "-s", "-f", "debian/rules", "execute_after_dh_auto_build", f"MADE={place}",
         f"PROGRAM=PYTHONPATH={ROOT} {sys.executable} -B -m"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    return place


@pytest.fixture
def program(home: Path) -> Iterator[dict[str, str]]:
    """Return an environment with krg-provision on its PATH."""
    command = home / "bin/krg-provision"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m provision "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    yield {**os.environ, "PATH": path, "PS1": "ready> ", "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def offered(words: Sequence[str], incomplete: str = "") -> list[str]:
    """Return what the program offers a shell after ``words``; types first, as click says them."""
    env = {
        **os.environ,
        "COMP_WORDS": " ".join(["krg-provision", *words, incomplete]),
        "COMP_CWORD": str(len(words) + 1),
        "_KRG_PROVISION_COMPLETE": "bash_complete",
    }
    # Said at the very end, when all that the completion imports has been imported.
    code = (
        "import atexit, sys, provision.cli\n"
        f"atexit.register(lambda: print(*[m for m in {HEAVY!r} if m in sys.modules], "
        "file=sys.stderr))\n"
        "provision.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "", f"imported for a completion: {done.stderr}"
    # Nothing to offer is an empty line.
    return [line for line in done.stdout.splitlines() if line]


def plain(*names: str) -> list[str]:
    return [f"plain,{name}" for name in names]


def test_names_of_commands_and_options(home: Path) -> None:
    assert offered([]) == plain(*COMMANDS)
    assert offered(["lab"], "d") == plain("diskless", "down")
    assert "plain,--no-download" in offered(["build-kernel"], "--no")


@pytest.mark.parametrize(
    ("words", "incomplete", "want"),
    [
        (["build-kernel", "--release"], "kerrighed-2.4", plain("kerrighed-2.4.4")),
        (["fetch", "--release"], "./my", ["file,./my"]),
        (["build-kernel", "--arch"], "", plain("x86_64", "i386")),
        (["build-kernel", "--release", "nothing", "--arch"], "", []),
        (["config", "generate", "--policy"], "fire", plain("firewall")),
        (["config", "lint", "--policy"], "no", plain("none")),
        (["config", "lint"], ".con", ["file,.con"]),
        (["config", "diff", "a"], "b", ["file,b"]),
        (["config", "explain", "--config"], "x", ["file,x"]),
        (["config", "explain", "--to"], "", plain("y", "m", "n")),
        (["doctor"], "bu", plain("build-kernel")),
        (["deploy", "--nodes"], "c", ["file,c"]),
        (["diskless"], "", plain("render")),
        (["lab", "diskless"], "", plain("up")),
        (["lab", "diskless", "up", "--release"], "kerrighed-2", plain("kerrighed-2.4.4")),
        (["lab", "up", "--release"], "debian", plain("debian-6.1", "debian-6.12")),
        (["diskless", "render", "--nodes"], "c", ["file,c"]),
        (["deploy", "--force"], "root-d", plain("root-disk")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_values(words: list[str], incomplete: str, want: list[str], home: Path) -> None:
    assert offered(words, incomplete) == want


def test_builds_and_labs_of_the_user(home: Path) -> None:
    assert offered(["deploy", "--artifacts"]) == ["dir,"]
    assert offered(["lab", "down", "--name"]) == []
    for name in ("one", "two", ".three.partial"):
        (builds_dir() / name).mkdir(parents=True)
        (builds_dir() / name / "manifest.json").write_text("{}")
    (builds_dir() / "empty").mkdir()
    (labs_dir() / "other").mkdir(parents=True)
    (labs_dir() / "other/lab.json").write_text("{}")
    both = plain(str(builds_dir() / "one"), str(builds_dir() / "two"))
    assert offered(["deploy", "--artifacts"]) == both
    assert offered(["lab", "up", "--artifacts"], f"{builds_dir()}/t") == both[1:]
    assert offered(["status", "--artifacts"], "/usr") == ["dir,/usr"]
    assert offered(["lab", "down", "--name"]) == plain("other")


@pytest.mark.parametrize("option", ["--release", "--policy", "--arch", "--artifacts"])
def test_an_option_of_the_same_name_completes_everywhere(option: str, home: Path) -> None:
    """Not only where somebody thought of it."""
    wanted = {"--release": "kerrighed-2.4.4", "--policy": "boot", "--arch": "i386"}.get(option)
    found = 0
    for name, command in commands():
        for parameter in command.params:
            if option in parameter.opts:
                found += 1
                items = parameter.shell_complete(click.Context(command), "")
                values = [item.value for item in items]
                kinds = {item.type for item in items}
                assert wanted in values if wanted else kinds == {"dir"}, (
                    f"{name} {option} has no shell_complete of provision.cli.complete"
                )
    assert found > 1


# --- real shells -------------------------------------------------------------------------


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: apt-get install {name}")
    return found


def after_tab(argv: Sequence[object], line: str, want: str, env: dict[str, str]) -> None:
    """Type ``line`` and Tab at a shell's prompt on a terminal, until it has written ``want``."""
    assert want not in line
    parent, child = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "-c", *map(str, argv)], stdin=child, stdout=child, stderr=child, env=env
    )
    os.close(child)
    said = ""
    deadline = time.monotonic() + LIMIT

    def come_to(text: str) -> None:
        nonlocal said
        start = len(said)
        while text not in said[start:]:
            ready, _, _ = select.select([parent], [], [], max(0.0, deadline - time.monotonic()))
            try:
                data = os.read(parent, 1 << 16) if ready else b""
            except OSError:  # EIO: the shell has ended
                data = b""
            assert data, f"waiting for {text!r}: {said!r}"
            said += data.decode(errors="replace")

    try:
        come_to("ready> ")
        os.write(parent, f"{line}\t".encode())
        come_to(want)
    finally:
        process.kill()
        process.wait()
        os.close(parent)


LINES = [
    ("krg-provision doc", "doctor"),
    ("krg-provision lab conso", "console"),
    ("krg-provision build-kernel --arch i", "i386"),
    ("krg-provision config lint --policy fire", "firewall"),
    ("krg-provision config lint nod", "node.config"),
]


@pytest.mark.parametrize(("line", "want"), LINES, ids=lambda value: value.split()[-1])
def test_bash(line: str, want: str, generated: Path, program: dict[str, str], home: Path) -> None:
    """As bash-completion loads it at the first Tab, where there is bash-completion."""
    place = home / "completion/completions"
    place.mkdir(parents=True)
    file = shutil.copy(generated / "bash/krg-provision", place)
    (home / "node.config").touch()
    rc = home / "rc"
    loads = BASH_COMPLETION if BASH_COMPLETION.exists() else file
    rc.write_text(f"cd {home}\nsource {loads}\nPS1='ready> '\n")
    env = program | {"BASH_COMPLETION_USER_DIR": str(place.parent)}
    after_tab([shell("bash"), "--noprofile", "--rcfile", rc, "-i"], line, want, env)


@pytest.mark.parametrize(("line", "want"), LINES, ids=lambda value: value.split()[-1])
def test_zsh(line: str, want: str, generated: Path, program: dict[str, str], home: Path) -> None:
    """As compinit loads it: at the first Tab."""
    (home / "node.config").touch()
    (home / ".zshrc").write_text(
        f"cd {home}\nfpath=({generated}/zsh $fpath)\nautoload -U compinit\n"
        "compinit -u -d ~/dump\nPS1='ready> '\nunsetopt zle_bracketed_paste 2>/dev/null\n"
    )
    env = program | {"ZDOTDIR": str(home)}
    after_tab([shell("zsh"), "-d", "-i"], line, want, env)


@pytest.mark.parametrize(("line", "want"), LINES, ids=lambda value: value.split()[-1])
def test_fish(line: str, want: str, generated: Path, program: dict[str, str], home: Path) -> None:
    """As fish finds what packages bring; it can be asked without a terminal."""
    place = home / "share/fish/vendor_completions.d"
    place.mkdir(parents=True)
    shutil.copy(generated / "fish/krg-provision.fish", place)
    (home / "node.config").touch()
    env = program | {"XDG_DATA_DIRS": f"{home}/share:/usr/local/share:/usr/share"}
    done = subprocess.run(
        [shell("fish"), "-c", f"complete -C '{line}'"],
        capture_output=True, text=True, env=env, cwd=home, stdin=subprocess.DEVNULL, timeout=LIMIT,
    )  # fmt: skip
    assert want in [text.split("\t")[0] for text in done.stdout.splitlines()], (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    ("name", "before", "after", "want"),
    [
        ("bash", "", "complete -p krg-provision", "_krg_provision_completion krg-provision"),
        ("zsh", "autoload -U compinit; compinit -u -D", "echo ${_comps[krg-provision]}",
         "_krg_provision_completion"),
        ("fish", "", "complete -C 'krg-provision lab do'", "down"),
    ],
)  # fmt: skip
def test_the_line_for_those_who_used_pip(
    name: str, before: str, after: str, want: str, program: dict[str, str], home: Path
) -> None:
    """What README.md tells them to write into the shell's settings."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    (line,) = [one for one in lines if f"_COMPLETE={name}_source" in one]
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": []}[name]
    done = subprocess.run(
        [shell(name), *options, "-c", f"{before}\n{line}\n{after}\n"],
        capture_output=True, text=True, env=program, cwd=home, stdin=subprocess.DEVNULL,
        timeout=LIMIT,
    )  # fmt: skip
    assert want in done.stdout, done.stdout + done.stderr
