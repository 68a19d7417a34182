# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers' tables of devices read as text, against gcc, make, and what a real build made."""

from __future__ import annotations

import random
import re
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_built import modprobe, ours

from kconfig import built, drivers, macros
from kconfig.drivers import Device
from provision.debian_archive import DebianArchive
from provision.errors import KrgError

CALM = settings(deadline=None)
HERE = Path(__file__).resolve().parent


def tree(place: Path, **files: str) -> Path:
    """Write a tree of drivers/net with the headers that all drivers see."""
    known = {
        "include/linux/pci_ids.h": "#define PCI_VENDOR_ID_INTEL 0x8086\n"
        "#define PCI_VENDOR_ID_3COM 0x10b7\n#define PCI_CLASS_STORAGE_IDE 0x0101\n",
        "include/linux/pci.h": "#ifndef G\n#define G\n#ifdef __KERNEL__\n"
        "#define PCI_DEVICE(v, d) .vendor = (v), .device = (d), \\\n"
        "\t.subvendor = PCI_ANY_ID, .subdevice = PCI_ANY_ID\n"
        "#define PCI_DEVICE_CLASS(c, m) .class = (c), .class_mask = (m), .vendor = PCI_ANY_ID, "
        ".device = PCI_ANY_ID, .subvendor = PCI_ANY_ID, .subdevice = PCI_ANY_ID\n"
        "#define PCI_VDEVICE(v, d) PCI_VENDOR_ID_##v, (d), PCI_ANY_ID, PCI_ANY_ID, 0, 0\n"
        "#endif\n#endif\n",
    }
    for name, text in (known | files).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def aliases(place: Path, text: str, **files: str) -> dict[str, frozenset[str]]:
    """Return the aliases of one driver drivers/net/a.c, and the symbols that build it."""
    made = {"drivers/net/Makefile": "obj-$(CONFIG_A) += a.o\n", "drivers/net/a.c": text}
    found: dict[str, frozenset[str]] = {}
    for entries, symbols in drivers.tables(tree(place, **(made | files))):
        found |= {entry.alias: symbols for entry in entries}
    return found


ID = "pci:v00008086d0000{}sv*sd*bc*sc*i*".format


@pytest.mark.parametrize(
    ("line", "alias"),
    [
        ("{ PCI_DEVICE(0x8086, 0x1000) },", ID(1000)),
        ("{ PCI_VDEVICE(INTEL, 0x1000), .driver_data = (long)&info, },", ID(1000)),
        ("{ 0x8086, 0x1000, PCI_ANY_ID, PCI_ANY_ID, 0, 0, 7 },", ID(1000)),
        ("{ 0x8086, 0x1000, ~0, ~0, },", ID(1000)),
        ("[BOARD] = { PCI_DEVICE(0x8086, 0x1000) },", ID(1000)),
        ("{ PCI_DEVICE(PCI_VENDOR_ID_INTEL, (0x800 << 1) | 0x0000) }, /* , { */", ID(1000)),
        # What is not named is 0, not any.
        ("{ 0x8086, 0x1000 },", "pci:v00008086d00001000sv00000000sd00000000bc*sc*i*"),
        ("{ .vendor = 0x8086, .device = 0x1000, .subvendor = PCI_ANY_ID, .subdevice = 2 },",
         "pci:v00008086d00001000sv*sd00000002bc*sc*i*"),
        ("{ PCI_DEVICE_CLASS(PCI_CLASS_STORAGE_IDE << 8, 0xFFFFFF00UL), .driver_data = 1 },",
         "pci:v*d*sv*sd*bc01sc01i*"),
        ("{ PCI_DEVICE_CLASS(0x010601, 0xffffff) },", "pci:v*d*sv*sd*bc01sc06i01*"),
        ("{ PCI_VENDOR_ID_3COM, PCI_ANY_ID, PCI_ANY_ID, PCI_ANY_ID, 0x020000, 0xff0000 },",
         "pci:v000010B7d*sv*sd*bc02sc*i*"),
    ],
)  # fmt: skip
def test_lines_of_a_table(line: str, alias: str, tmp_path: Path) -> None:
    text = f"static const struct pci_device_id t[] = {{\n{line}\n{{ 0, }}\n}};\n"
    assert aliases(tmp_path, text) == {alias: {"A"}}


@pytest.mark.parametrize(
    "text",
    [
        # macros: two deep, several lines each, a table made by macros in a header
        "#define ONE(d) { PCI_DEVICE(0x8086, d) }\n#define TWO(d) ONE(d), ONE(d + 1)\n"
        "struct pci_device_id t[] = { TWO(0x1000), TWO(0x1002), {} };",
        '#define BEGIN static const struct pci_device_id t[] = {\n#define FUNCTION 0\n'
        '#define END {0,} }\n#define ENTRY(d) { PCI_DEVICE(0x8086, d) }\n#include "ids.h"\n',
        # conditions: what the configuration decides counts either way
        "struct pci_device_id t[] = {\n#ifdef CONFIG_OLD\n{PCI_DEVICE(0x8086, 0x1000)},\n#else\n"
        "{PCI_DEVICE(0x8086, 0x1001)},\n#endif\n#if defined(CONFIG_X) && X > 2\n"
        "{PCI_DEVICE(0x8086, 0x1002)},\n#endif\n#ifdef FROM_A_HEADER\n"
        "{PCI_DEVICE(0x8086, 0x1003)},\n#endif\n"
        "#if 0\n{PCI_DEVICE(0x8086, 0x1004)},\n#endif\n{}\n};",
        "enum {\n\tA = 0x1000,\n\tB = 0x1001\n};\nstruct pci_device_id t[] = {\n"
        "{PCI_DEVICE(0x8086, A)}, {PCI_DEVICE(0x8086, B)}, {PCI_DEVICE(0x8086, 0x1002)},\n"
        "{PCI_DEVICE(0x8086, 0x1003)}, };",
        # only tables that are exported, when any is
        "struct pci_device_id t[] = { {PCI_DEVICE(0x8086, 0x1000)}, {PCI_DEVICE(0x8086, 0x1001)},\n"
        "{PCI_DEVICE(0x8086, 0x1002)}, {PCI_DEVICE(0x8086, 0x1003)}, {} };\n"
        "MODULE_DEVICE_TABLE(pci, t);\n"
        "struct pci_device_id bridges[] = { {PCI_DEVICE(0x8086, 0x7000)}, {} };\n",
    ],
    ids=["macros", "header", "conditions", "enum", "exported"],
)  # fmt: skip
def test_tables(text: str, tmp_path: Path) -> None:
    header = (
        "#ifndef FUNCTION\n#error\n#endif\n#define F(d) ENTRY((d) | ((FUNCTION) << 8))\nBEGIN\n"
        "F(0x1000),\nF(0x1001), F(0x1002),\n#ifdef CONFIG_MORE\nF(0x1003),\n#endif\nEND;\n"
    )
    places = {"drivers/net/Makefile": "obj-$(CONFIG_A) += a.o\nccflags-y += -I$(src)/headers\n"}
    found = aliases(tmp_path, text, **places, **{"drivers/net/headers/ids.h": header})
    assert found == {ID(number): {"A"} for number in (1000, 1001, 1002, 1003)}


@pytest.mark.parametrize(
    ("makefiles", "symbols"),
    [
        ({"drivers/net/x/Makefile": "obj-$(CONFIG_B) += b.o\nb-y := c.o \\\n a.o\n"}, {"B"}),
        ({"drivers/net/x/Makefile": "obj-${CONFIG_B} := b.o\nb-objs += a.o\n"}, {"B"}),
        ({"drivers/net/x/Makefile": "obj-$(CONFIG_B) += b.o\nb-$(CONFIG_PCI) += a.o\n"}, {"B"}),
        ({"drivers/net/Makefile": "obj-$(CONFIG_C) += b.o\nb-y := x/a.o\n"}, {"C"}),
        ({"drivers/net/x/Kbuild": "obj-$(CONFIG_B) += a.o\nobj-$(CONFIG_C) += a.o\n"}, {"B", "C"}),
        ({"drivers/net/x/Makefile": "obj-y += other.o\n"}, set()),
    ],
)
def test_what_builds_a_file(makefiles: dict[str, str], symbols: set[str], tmp_path: Path) -> None:
    text = "struct pci_device_id t[] = { {PCI_DEVICE(0x8086, 0x1000)}, {} };"
    place = tree(tmp_path, **{"drivers/net/x/a.c": text}, **makefiles)
    ((_, found),) = drivers.tables(place)
    assert found == symbols


def test_what_is_not_known_about_a_device(tmp_path: Path) -> None:
    text = (
        "struct pci_device_id t[] = { {PCI_DEVICE_CLASS(0x010802, 0xffffff)},\n"
        "{0x8086, 0x1000, 0x8086, 1, 0, 0}, {} };"
    )
    aliases(tmp_path, text)
    nvme = Device(0x144D, 0xA808, pci_class=0x010800, class_known=0xFFFF00)
    other = Device(0x144D, 0xA808, pci_class=0x010801)
    card, wrong = Device(0x8086, 0x1000), Device(0x8086, 0x1000, 0x8086, 2)
    found = drivers.symbols_for(tmp_path, [nvme, other, card, wrong])
    assert [bool(found[one]) for one in (nvme, other, card, wrong)] == [True, False, True, False]


MACROS = """
#define A 1
#define B A + A
#define F(x) (x B)
#define G(x, y) F(x) F(y)
#define H(x) P_##x x P##x##Q
#define V(x, ...) x: __VA_ARGS__;
#define W(x, rest...) x: rest;
#define SELF SELF + A
#define LOOP1 LOOP2
#define LOOP2 LOOP1
#define EMPTY
#define NONE() A
#define BRACES(x) { x, { x } }
#define P_A 99
#define DEEP(x) G(F(x), H(x))
"""
USES = [
    "A B F(2)", "G(1, (2, 3))", "H(A)", "H(q)", "V(1, 2, 3)", "V(A, (B, C), F(A))", "W(1, A, B)",
    "SELF", "LOOP1 LOOP2", "EMPTY A EMPTY", "NONE() NONE ( )", "F", "F (1)", "BRACES(F(A))",
    "DEEP(A)", "G(G(1, 2), H(A))", '"A F(1)" \'A\' A', "x.A->B", "0x1FULL A1 1A", "F()", "F(EMPTY)",
    "H(EMPTY)", "V(1)", "a##b", "A<<B>>A&&B||A==B!=A",
]  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_macros_are_expanded_as_gcc_does(use: str, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(MACROS + use + "\n")
    argv = ["gcc", "-E", "-P", "-undef", "-nostdinc", "-w", "a.c"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    flat = macros.Reader().flat(tmp_path / "a.c")
    ours = list(macros.expand(macros.tokens("".join(flat.pieces)), flat.macros))
    assert ours == macros.tokens(done.stdout)


def test_a_bomb_of_macros_ends() -> None:
    doubled = {f"M{n}": macros.Macro(None, (f"M{n + 1}", f"M{n + 1}")) for n in range(35)}
    with pytest.raises(macros.TooMuchError):
        list(macros.expand(["M0"], doubled))
    argument = {"F": macros.Macro(("x",), ("x",) * 2)}
    nested = "F(" * 30 + "1" + ")" * 30
    with pytest.raises(macros.TooMuchError):
        list(macros.expand(macros.tokens(nested), argument))
    long = {f"M{n}": macros.Macro(None, (f"M{n + 1}",)) for n in range(10_000)}
    assert len(list(macros.expand(["M0"], long))) == 1


WORD = (1 << 64) - 1
SIGNS = {"|": int.__or__, "^": int.__xor__, "&": int.__and__, "+": int.__add__,
         "-": int.__sub__, "*": int.__mul__, "<<": lambda a, b: a << b % 64,
         ">>": lambda a, b: a >> b % 64}  # fmt: skip


def both(a: tuple[str, int], sign: str, b: tuple[str, int]) -> tuple[str, int]:
    right = b if sign not in ("<<", ">>") else (str(b[1] % 64), b[1])
    return f"({a[0]} {sign} {right[0]})", SIGNS[sign](a[1], right[1]) & WORD


EXPRESSIONS = st.recursive(
    st.integers(0, 2**40).flatmap(
        lambda n: st.sampled_from([(str(n), n), (f"{n:#x}ULL", n), (f"0{n:o}", n)])
    ),
    lambda inner: st.one_of(
        st.builds(both, inner, st.sampled_from(sorted(SIGNS)), inner),
        inner.map(lambda a: (f"~{a[0]}", ~a[1] & WORD)),
        inner.map(lambda a: (f"- {a[0]}", -a[1] & WORD)),
        inner.map(lambda a: (f"(u64)({a[0]})", a[1])),
    ),
    max_leaves=12,
)


@CALM
@given(EXPRESSIONS)
def test_expressions(expression: tuple[str, int]) -> None:
    text, value = expression
    assert macros.evaluate(macros.tokens(text)) == value or len(macros.tokens(text)) > 200


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 | 2 << 4", 33), ("1 + 2 * 3", 7), ("6 & 3 == 3", 0), ("(unsigned)7 ?: 9", 7),
     ("0 ? 1 : 2", 2), ("((u16)(0x12345 & 0xffff))", 0x2345), ("!0", 1), ("010", 8), ("08", None),
     ("", None), ("x", None), ("(1", None), ("1)", None), ("1 +", None), ("(" * 150, None),
     ("9" * 30, None)],
)  # fmt: skip
def test_more_expressions(text: str, value: int | None) -> None:
    assert macros.evaluate(macros.tokens(text)) == value


PIECES = [
    "#define A(x, y) { x, y }\n", "#define B A(B, ", "#if 0\n", "#else\n", "#endif\n", "#ifdef X\n",
    "#elif\n", "#include \"a.c\"\n", "#include <a.c>\n", "#include \"\n", "#define\n", "#ifdef\n",
    "struct pci_device_id t[] = {\n", "{ PCI_DEVICE(1, 2) },", "A(1, 2)", "B", "{", "}", "};", "(",
    ")", ",", ".vendor = ", ".", "=", "0x8086", "~0", "##", "/*", "*/", '"', "'", "\\\n", "1 ? 2",
    "MODULE_DEVICE_TABLE(pci, t);", "enum { Q = 7, };\n", "\x00\xff",
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(st.sampled_from(PIECES)))
def test_any_source_is_read(tmp_path_factory, body, header) -> None:  # type: ignore[no-untyped-def]
    place = tmp_path_factory.getbasetemp() / "any"
    text = "pci_device_id\n" + "".join(body)
    files = {"drivers/net/a.h": "".join(header), "drivers/net/Makefile": text}
    for entry in aliases(place, text + '\n#include "a.h"\n' + text, **files):
        assert entry.startswith("pci:")


class Kernel(NamedTuple):
    """A real kernel: its sources, and its modules as they were built."""

    tree: Path
    modules: Path
    config: str


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """Debian's kernel: image, and the sources of its drivers; some 200 MB are downloaded."""
    work = tmp_path_factory.mktemp("debian")
    archive = DebianArchive(work / "apt")
    try:
        # The metapackage names the image, and the image's name the version of the sources.
        with archive._locked():
            image = archive._record("linux-image-amd64")["Depends"].split()[0]
        version = ".".join(re.findall(r"\d+", image)[:2])
        archive.unpack(image, work / "image")
        archive.unpack(f"linux-source-{version}", work / "source")
    except KrgError as error:
        pytest.skip(f"{error.message}; {error.hint}")
    place = work / "tree"
    with tarfile.open(next((work / "source/usr/src").glob("*.tar.*")), "r|*") as tar:
        for member in tar:
            parts = Path(member.name).parts[1:]
            if member.isreg() and parts[:1] in (("drivers",), ("include",)):
                member.name = str(Path(*parts))
                tar.extract(member, place, filter="data")
    root = next(
        path for path in (work / "image", work / "image/usr") if (path / "lib/modules").is_dir()
    )
    (modules,) = (root / "lib/modules").iterdir()
    subprocess.run(["depmod", "-b", root, modules.name], check=True)
    return Kernel(place, modules, next((work / "image/boot").glob("config-*")).read_text())


def by_make(kernel: Path, directory: str) -> Mapping[str, set[str]]:
    """Ask make which symbols build the modules of a directory."""
    makefile = kernel / directory / "Makefile"
    names = sorted(set(re.findall(r"CONFIG_(\w+)", makefile.read_text())))
    script = "".join(f"CONFIG_{name} := @{name}\n" for name in names)
    script += f"srctree := {kernel}\nsrc := {makefile.parent}\nobj := {directory}\n"
    script += f"include {makefile}\nask:\n"
    script += "".join(f"\t@$(info {name} $(obj-@{name}))\n" for name in names)
    argv = ["make", "-s", "-f", "-", "ask"]
    done = subprocess.run(argv, input=script, capture_output=True, text=True)
    found: dict[str, set[str]] = defaultdict(set)
    for line in done.stdout.splitlines():
        symbol, *objects = line.split()
        for name in objects:
            found[name.removesuffix(".o").replace("-", "_")].add(symbol)
    return found


def aliases_of(kernel: Kernel) -> Iterator[tuple[str, str, set[str]]]:
    """Yield (module, alias, symbols) of each PCI alias in the rooms that are read."""
    places = {}
    for line in (kernel.modules / "modules.order").read_text().split():
        path = Path(line.removeprefix("kernel/"))
        places[path.stem.replace("-", "_")] = str(path.parent)
    known: dict[str, Mapping[str, set[str]]] = {}
    for line in (kernel.modules / "modules.alias").read_text().splitlines():
        word, alias, module = line.split(maxsplit=2)
        place = places.get(module, "")
        if word == "alias" and alias.startswith("pci:") and place.startswith(drivers.ROOMS):
            if place not in known:
                known[place] = by_make(kernel.tree, place)
            yield module, alias, known[place][module]


@pytest.mark.slow
def test_the_tables_of_a_real_kernel(debian: Kernel) -> None:
    """Of the aliases that the kernel's own build made, as good as all are found, and no others."""
    found: dict[str, set[str]] = defaultdict(set)
    for entries, symbols in drivers.tables(debian.tree):
        for entry in entries:
            found[entry.alias] |= symbols
    truth = list(aliases_of(debian))
    missed = [(module, alias) for module, alias, wanted in truth if not wanted & found[alias]]
    on = set(re.findall(r"^CONFIG_(\w+)=[ym]$", debian.config, re.M))
    extra = [(alias, found[alias] & on) for alias in set(found) - {alias for _, alias, _ in truth}
             if found[alias] & on]  # fmt: skip
    right = len(truth) - len(missed)
    print(f"\n{debian.modules.name}: {len({module for module, _, _ in truth})} modules, "
          f"{len(truth)} aliases, {right} found with their symbol ({right / len(truth):.2%}), "
          f"{len(extra)} that no module has")  # fmt: skip
    for line in (*missed, *extra):
        print(line)
    assert len(truth) > 3000 and right / len(truth) > 0.995 and len(extra) < 20


_FORM = re.compile("pci:" + "".join(rf"{name}(\*|[0-9A-F]+)"
                   for name in ("v", "d", "sv", "sd", "bc", "sc", "i")) + r"\*?")  # fmt: skip


@pytest.mark.slow
def test_a_real_kernel_has_the_modules_that_modprobe_names(debian: Kernel) -> None:
    """Devices of many drivers, what a pattern leaves open filled in with dice."""
    made = built.load(debian.modules)
    dice = random.Random(7)
    patterns = dice.sample(sorted({alias.pattern for alias in made.modules}), 400)
    for pattern in patterns:
        match = _FORM.fullmatch(pattern)
        assert match, pattern
        ids = [dice.randrange(0x2000) if part == "*" else int(part, 16) for part in match.groups()]
        kinds = [dice.choice([0, 1, 2, 6, 8]) if part == "*" else int(part, 16)
                 for part in match.groups()[4:]]  # fmt: skip
        device = Device(*ids[:4], kinds[0] << 16 | kinds[1] << 8 | kinds[2])
        wanted = modprobe(debian.modules.parents[2], made.release, device)
        assert wanted and ours(made, device) == wanted, (pattern, device)
    # And the same from the modules themselves.
    (debian.modules / "modules.alias").rename(debian.modules / "aside")
    try:
        assert set(built.load(debian.modules).modules) == set(made.modules)
    finally:
        (debian.modules / "aside").rename(debian.modules / "modules.alias")
    print(f"\n{made.release}: {len(patterns)} devices of {len(made.modules)} patterns, "
          "the same modules as modprobe names")  # fmt: skip
