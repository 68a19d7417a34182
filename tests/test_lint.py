# SPDX-License-Identifier: GPL-2.0-or-later
"""config lint: policies, trees, nodes; the command as people and CI systems run it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import mini
import pytest
from conftest import ROOT, Command

from kconfig import crosscheck, lint, lint_tree, nearest, policy
from kconfig.config_file import parse
from kconfig.errors import KconfigError
from kconfig.finding import Finding

TREE = mini.HERE / "linux"
GOOD = (
    'CONFIG_LOCALVERSION=""\nCONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_PREEMPT_NONE=y\n'
    "CONFIG_NET=y\nCONFIG_NETFILTER=m\nCONFIG_BUFFERS=16\n# CONFIG_KEYS is not set\n"
    "CONFIG_KERRIGHED=y\nCONFIG_TIPC=y\n# CONFIG_BROKEN is not set\n"
    "# CONFIG_BAD_CRC is not set\n# CONFIG_DROPPED is not set\n"
)
POLICY = str(mini.HERE / "policy.toml")


def subject(text: str, **facts: str) -> lint.Subject:
    return lint.Subject(parse(text, "x"), (2, 6, 20), "x86_64", facts)


def against(text: str, rule: str, **facts: str) -> list[Finding]:
    head = 'name = "p"\ntitle = "t"\n'
    more = 'id = "r"\nwhy = "w."\nsource = "s"\n'
    made = policy.parse(f"{head}[[rule]]\n{more}{rule}", "p.toml")
    return lint.check(subject(text, **facts), made)


def in_tree(text: str, other: Path | None = None) -> list[Finding]:
    return lint_tree.lint(subject(text), lint_tree.load(TREE, "x86_64", other))


def test_a_value_that_a_policy_does_not_want() -> None:
    (found,) = against("CONFIG_B=y\nCONFIG_A=m\n", 'symbols = ["A", "B"]\nwant = "y"')
    assert found == Finding(
        "p/r", "required", "A", "m", "y", "w.", "s", "CONFIG_A=y", "x", 2
    )  # fmt: skip


def test_absent_and_unset_are_n() -> None:
    rule = 'symbols = ["A", "B"]\nwant = "y"'
    assert [(f.have, f.line) for f in against("# CONFIG_A is not set\nCONFIG_C=y", rule)] == [
        ("n", 1), ("not set", 0),
    ]  # fmt: skip
    assert against("# CONFIG_A is not set\nCONFIG_C=y", 'symbols = ["A", "B"]\nwant = "n"') == []


def test_one_of_several_will_do() -> None:
    rule = 'symbols = ["A", "B"]\nwant = ["y", "m"]\nneed = "any"'
    assert against("CONFIG_B=m", rule) == []
    (found,) = against("CONFIG_C=m", rule)
    assert found.have == "none of A, B" and "CONFIG_A=y" in found.fix


def test_rules_with_conditions() -> None:
    rule = 'symbols = ["A"]\nwant = "y"\nwhen = ["B=y", "!boot.initrd"]'
    facts = {"boot.initrd": "no"}
    assert against("CONFIG_B=y", rule) == [] == against("CONFIG_C=y", rule, **facts)
    assert len(against("CONFIG_B=y", rule, **facts)) == 1


def test_the_first_of_two_assignments_is_judged_in_old_kernels() -> None:
    text = "CONFIG_A=n\nCONFIG_A=y\n"
    assert len(against(text, 'symbols = ["A"]\nwant = "y"')) == 1
    (found,) = lint.duplicates(subject(text))
    assert (found.line, found.severity) == (2, "required") and "takes the first" in found.why
    assert lint.duplicates(subject("CONFIG_A=y\nCONFIG_A=y\n"))[0].severity == "info"


def test_rules_for_an_unknown_version_are_counted() -> None:
    head = 'name = "p"\ntitle = "t"\n[[rule]]\nid = "r"\nwhy = "w."\nsource = "s"\n'
    made = policy.parse(head + 'symbols = ["A"]\nwant = "y"\nsince = "2.6.20"', "p")
    unknown = lint.Subject(parse("CONFIG_B=y", "x"), None, "", {})
    (found,) = lint.check(unknown, made)
    assert found.have == "1 rules of p not applied" and found.severity == "info"


def test_made_for_another_kernel_or_machine() -> None:
    text = "# Linux/x86_64 3.2.0 Kernel Configuration\nCONFIG_X86_32=y\n"
    rules = [(f.rule, f.have, f.want) for f in lint.mismatch(subject(text))]
    assert rules == [
        ("config/version", "made for Linux 3.2.0", "2.6.20"),
        ("config/arch", "made for i386", "x86_64"),
    ]


def test_corrections_of_a_kernel_are_the_same_kernel() -> None:
    config = parse("# Linux/x86_64 6.1.0 Kernel Configuration\nCONFIG_A=y\n", "x")
    assert lint.mismatch(lint.Subject(config, (6, 1, 192), "x86_64")) == []
    assert len(lint.mismatch(lint.Subject(config, (6, 2, 0), "x86_64"))) == 1


def test_a_tree_without_drivers_is_no_witness(tmp_path: Path) -> None:
    seen = crosscheck.node_facts([("n", NODE)])
    (found,) = crosscheck.devices(subject("CONFIG_A=y\n"), tmp_path, seen.devices)
    assert found.rule == "node/devices"


def test_a_good_configuration_is_clean_in_its_tree() -> None:
    assert in_tree(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "rule", "symbol", "said"),
    [
        ("CONFIG_NET=y\n", "# CONFIG_NET is not set\n", "tree/not-kept", "NETFILTER",
         "needs NET, which is n"),
        ("CONFIG_BUFFERS=16", "CONFIG_BUFFERS=99", "tree/not-kept", "BUFFERS", "not a value"),
        ("CONFIG_PREEMPT_NONE=y", "CONFIG_PREEMPT=y", "tree/not-kept", "KERRIGHED",
         "PREEMPT_NONE, which is n because the choice 'Preemption Model' has PREEMPT"),
        ("CONFIG_TIPC=y", "# CONFIG_TIPC is not set", "tree/not-kept", "TIPC",
         "selected by KERRIGHED"),
        ("CONFIG_NET=y", "CONFIG_NET=m", "tree/not-kept", "NET", "never m"),
        ("CONFIG_NET=y", 'CONFIG_NET="y"', "tree/not-kept", "NET", "without quotes"),
        ("CONFIG_NET=y", "CONFIG_NET=y\nCONFIG_NETFILTERR=y", "tree/unknown", "NETFILTERR",
         "no such symbol"),
        ("# CONFIG_BROKEN is not set\n", "", "tree/new", "BROKEN", "has no line"),
    ],
)  # fmt: skip
def test_what_a_tree_does_not_take(old: str, new: str, rule: str, symbol: str, said: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    found = [f for f in in_tree(text) if (f.rule, f.symbol) == (rule, symbol)]
    assert len(found) == 1 and said in found[0].why + found[0].fix, in_tree(text)
    if found[0].line:
        assert f"CONFIG_{symbol}" in text.split("\n")[found[0].line - 1]


def test_with_a_tree_policies_judge_the_values_in_the_end(krg: Command, home: Path) -> None:
    (home / "c").write_text("CONFIG_PREEMPT_NONE=y\nCONFIG_NET=y\nCONFIG_NETFILTER=m\n"
                            "CONFIG_MODVERSIONS=y\nCONFIG_KERRIGHED=y\n")  # fmt: skip
    options = ("config", "lint", "--policy", POLICY, "c")
    assert "TIPC not set, wanted y" in krg(*options).stdout
    done = krg(*options, "--tree", TREE)
    assert done.returncode == 0 and "mini/" not in done.stdout
    (home / "c").write_text("CONFIG_PREEMPT_NONE=y\nCONFIG_NETFILTER=m\nCONFIG_KERRIGHED=y\n"
                            "CONFIG_MODVERSIONS=y\n")  # fmt: skip
    done = krg(*options, "--tree", TREE)
    assert "2: NETFILTER n, wanted y or m" in done.stdout
    assert "2: NETFILTER n in the end, wanted m" in done.stdout


def test_no_new_symbols_in_a_fragment() -> None:
    assert in_tree("CONFIG_KEYS=y\n") == []


def test_unknown_symbols_get_a_hint() -> None:
    (found,) = in_tree(GOOD + "CONFIG_KERIGHED=y\n")
    assert found.fix == "perhaps CONFIG_KERRIGHED=y"
    (found,) = in_tree(GOOD + "# CONFIG_QQQQ is not set\n")
    assert found.severity == "info" and found.fix == "remove the line"


def other_tree(place: Path, version: str) -> Path:
    """Copy the small tree with another version, MODULES gone and WIRELESS there."""
    (place / "arch/x86_64").mkdir(parents=True)
    text = (TREE / "arch/x86_64/Kconfig").read_text()
    (place / "arch/x86_64/Kconfig").write_text(
        text.replace("config BROKEN", "config WIRELESS").replace("config KEYS", "config KEY_RINGS")
        .replace("!KEYS", "!KEY_RINGS")
    )  # fmt: skip
    numbers = dict(zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), version.split("."), strict=True))
    (place / "Makefile").write_text("".join(f"{k} = {v}\n" for k, v in numbers.items()))
    return place


@pytest.mark.parametrize(
    ("version", "said"), [("2.6.10", "removed since 2.6.10"), ("2.6.31", "added by 2.6.31")]
)
def test_two_trees_tell_what_was_added_and_removed(tmp_path: Path, version: str, said: str) -> None:
    found = in_tree(GOOD + "CONFIG_WIRELESS=y\n", other_tree(tmp_path, version))
    assert [said in f.why for f in found if f.symbol == "WIRELESS"] == [True]


def test_what_select_forces(tmp_path: Path) -> None:
    tree = other_tree(tmp_path, "2.6.20")
    with (tree / "arch/x86_64/Kconfig").open("a") as file:
        file.write("config BUS\n\tbool\n\tdepends on EXPERIMENT\nconfig EXPERIMENT\n\tbool \"e\"\n"
                   "config USER\n\tbool \"u\"\n\tselect BUS\n")  # fmt: skip
    text = "CONFIG_USER=y\n# CONFIG_EXPERIMENT is not set\n"
    (found,) = lint_tree.lint(subject(text), lint_tree.load(tree, "x86_64"))
    assert (found.rule, found.symbol) == ("tree/forced", "BUS")
    assert found.why.startswith("selected by USER although it needs EXPERIMENT, which is n")


def test_ten_thousand_unknown_symbols_take_no_time() -> None:
    text = "".join(f"CONFIG_NETFILTE{n}=y\n" for n in range(10_000)) + "CONFIG_NET=y\n"
    started = time.process_time()
    found = [f for f in in_tree(text) if f.rule == "tree/unknown"]
    assert len(found) == 10_000 and time.process_time() - started < 5
    assert sum(f.fix.startswith("perhaps") for f in found) <= nearest.MOST_HINTS


NODE = (
    "cmdline: root=/dev/sda1 ro console=ttyS0 ip=10.0.0.1 node_id=1\n/dev/root / ext3 rw 0 0\n"
    "00:03.0 0200: 8086:100e (rev 02)\n00:05.0 Class 0106: 8086:2922\n"
    "00:06.0 Ethernet controller [0200]: Broadcom [14e4:1677] (rev 01)\n"
    "pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00\n00:00.0 0600: 8086:1237\n"
)


def test_facts_of_a_node() -> None:
    seen = crosscheck.node_facts([("n", NODE)], None, initrd=False)
    assert seen.facts["root.disk"] == "sd" and seen.facts["root.type"] == "ext3"
    assert seen.facts["console.serial"] == "yes" and seen.facts["boot.initrd"] == "no"
    assert [str(d) for d in seen.devices if d.kind] == [
        "8086:100e", "8086:2922", "14e4:1677", "10ec:8139",
    ]  # fmt: skip
    with pytest.raises(KconfigError, match="n: nothing recognised"):
        crosscheck.node_facts([("n", "hello\n")])


def rules_of(policy_name: str, text: str, cmdline: str, initrd: bool | None = None) -> set[str]:
    facts = crosscheck.node_facts([], cmdline, initrd).facts
    made = lint.Subject(parse(text, "x"), (2, 6, 20), "x86_64", facts)
    return {f.rule.partition("/")[2] for f in lint.check(made, policy.load(policy_name))}


def test_an_address_on_the_command_line_makes_node_id_void() -> None:
    on, off = "CONFIG_KRG_AUTONODEID=y\n", "# CONFIG_KRG_AUTONODEID is not set\n"
    rule = "node-id-from-address"
    assert rule in rules_of("kerrighed-2.4.4", on, "root=/dev/sda1 ip=10.0.0.1 node_id=1")
    for text, cmdline in ((off, "ip=10.0.0.1 node_id=1"), (on, "node_id=1"), (on, "ip=10.0.0.1"),
                          (on, "ip=off node_id=1")):  # fmt: skip
        assert rule not in rules_of("kerrighed-2.4.4", text, cmdline)
    assert rule in rules_of("kerrighed-3.0.0", on, "ip=10.0.0.1 node_id=1")


@pytest.mark.parametrize(
    ("text", "cmdline", "initrd", "rule"),
    [
        ("# CONFIG_ATA is not set\n", "root=/dev/sda1", False, "root-disk-sd-driver"),
        ("CONFIG_ATA=y\n", "root=/dev/hda1", False, "root-disk-hd"),
        ("CONFIG_EXT3_FS=m\n", "root=/dev/hda1 rootfstype=ext3", False, "root-ext3"),
        ("CONFIG_EXT3_FS=n\n", "root=/dev/hda1 rootfstype=ext3", True, "root-ext3-module"),
        ("CONFIG_A=y\n", "console=ttyS0,115200", None, "serial-console"),
        ("CONFIG_A=y\n", "root=/dev/sda1", True, "initrd"),
    ],
)
def test_what_a_command_line_asks_of_a_kernel(
    text: str, cmdline: str, initrd: bool | None, rule: str
) -> None:
    assert rule in rules_of("boot", text, cmdline, initrd)
    assert rule not in rules_of("boot", text, "quiet")


@pytest.fixture
def drivers(tmp_path: Path) -> Path:
    """A tree with drivers as kernels have them: tables, macros, Makefiles in rooms."""
    files = {
        "include/linux/pci_ids.h": "#define PCI_VENDOR_ID_INTEL\t\t0x8086\n"
        "#define PCI_DEVICE_ID_AHCI (0x2922)\n#define PCI_CLASS_STORAGE_IDE 0x0101\n",
        "include/linux/pci.h": "#define PCI_DEVICE(v, d) .vendor = (v), .device = (d), \\\n"
        ".subvendor = PCI_ANY_ID, .subdevice = PCI_ANY_ID\n"
        "#define PCI_DEVICE_CLASS(c, m) .class = (c), .class_mask = (m), PCI_DEVICE(~0, ~0)\n"
        "#define PCI_VDEVICE(v, d) PCI_VENDOR_ID_##v, (d), PCI_ANY_ID, PCI_ANY_ID, 0, 0\n",
        "drivers/net/Makefile": "obj-$(CONFIG_E1000) += e1000/\nobj-$(CONFIG_8139TOO) += \\\n"
        "\t8139too.o\n",
        "drivers/net/e1000/Makefile": "obj-$(CONFIG_E1000) += e1000.o\n"
        "e1000-objs := e1000_main.o e1000_hw.o\n",
        "drivers/net/e1000/e1000_main.c": "#define INTEL_DEVICE(id) {\\\n"
        "\tPCI_DEVICE(PCI_VENDOR_ID_INTEL, id)}\nstatic struct pci_device_id e1000_pci_tbl[] = {\n"
        "\tINTEL_DEVICE(0x1000), /* first */\n\tINTEL_DEVICE(0x100E),\n\t{0,}\n};\n",
        "drivers/net/8139too.c": "static struct pci_device_id rtl[] = {\n"
        "{0x10ec, 0x8139, PCI_ANY_ID, PCI_ANY_ID, 0, 0, RTL },\n{0,}\n};\n",
        "drivers/ata/Makefile": "obj-$(CONFIG_SATA_AHCI) += ahci.o\n"
        "obj-$(CONFIG_ATA_GENERIC) += ata_generic.o\n",
        "drivers/ata/ahci.c": "static const struct pci_device_id t[] = {\n"
        "{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_AHCI), board },\n{ }\n};\n",
        "drivers/ata/ata_generic.c": "static struct pci_device_id g[] = {\n"
        "{ PCI_DEVICE_CLASS(PCI_CLASS_STORAGE_IDE << 8, 0xFFFFFF00UL), },\n{ 0, },\n};\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_devices_without_a_driver(drivers: Path) -> None:
    seen = crosscheck.node_facts([("n", NODE + "00:01.1 0101: 8086:7010\n")])
    text = "CONFIG_E1000=m\n# CONFIG_SATA_AHCI is not set\nCONFIG_ATA_GENERIC=m\n"
    found = crosscheck.devices(subject(text), drivers, seen.devices)
    assert {(f.severity, f.have) for f in found} == {
        ("recommended", "the driver of disk device 8086:7010 is a module (ATA_GENERIC)"),
        ("required", "no driver for disk device 8086:2922: SATA_AHCI off"),
        ("recommended", "no driver for network device 14e4:1677 in this tree"),
        ("required", "no driver for network device 10ec:8139: 8139TOO off"),
    }
    with_initrd = subject(text, **{"boot.initrd": "yes"})
    assert len(crosscheck.devices(with_initrd, drivers, seen.devices)) == 3


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.config"
    path.write_text(GOOD)
    return path


def test_the_command(krg: Command, good: Path, tmp_path: Path) -> None:
    options = ("config", "lint", "--policy", POLICY)
    done = krg(*options, good)
    assert (done.returncode, done.stdout) == (0, "1 file: no findings\n")
    bad = tmp_path / "bad.config"
    bad.write_text(
        GOOD.replace("CONFIG_TIPC=y", "CONFIG_TIPC=n").replace("CONFIG_NETFILTER=m\n", "")
    )
    done = krg(*options, "--tree", TREE, tmp_path / "*.config")
    assert done.returncode == 1 and "\x1b" not in done.stdout
    assert "mini/firewall" in done.stdout and "-: NETFILTER not set, wanted y" in done.stdout
    assert "selected by KERRIGHED" in done.stdout and "2 files: 1 required, 2 info" in done.stdout
    assert krg(*options, bad, "--fail-on", "info").returncode == 1
    done = krg("config", "lint", "--policy", "none", bad)
    assert done.returncode == 0
    done = krg("config", "lint", "--policy", "none", "--tree", TREE, bad, "--fail-on", "info")
    assert done.returncode == 1


def test_one_bad_file_does_not_hide_the_others(krg: Command, good: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    done = krg("config", "lint", "--policy", "none", tmp_path / "noise", good, tmp_path / "none")
    assert done.returncode == 2 and done.stdout == "1 file: no findings\n"
    assert "noise: binary" in done.stderr and "No such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "nothing"], "no policy nothing"),
        (["--tree", "/nowhere"], "not a kernel tree"),
        (["--kernel-version", "six"], "'six' is not a kernel version"),
        (["--other-tree", "/nowhere"], "--tree, which is missing"),
        (["--baseline", "/nowhere"], "/nowhere: No such file"),
        (["--node", "/nowhere"], "/nowhere: No such file"),
        (["--arch", "vax", "--tree", str(TREE)], "no architecture vax"),
        (["/nowhere/*.config"], "matches no file"),
    ],
)
def test_wrong_options(krg: Command, good: Path, options: list[str], said: str) -> None:
    done = krg("config", "lint", *options, good)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_tree_with_an_error(krg: Command, good: Path, tmp_path: Path) -> None:
    tree = other_tree(tmp_path / "tree", "2.6.20")
    (tree / "arch/x86_64/Kconfig").write_text('source "arch/x86_64/Kconfig"\n')
    done = krg("config", "lint", "--tree", tree, "--policy", "none", good)
    assert done.returncode == 2 and "arch/x86_64/Kconfig:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_standard_input_and_kernels(krg: Command, home: Path) -> None:
    import gzip

    data = b"\x7fELF\0IKCFG_ST" + gzip.compress(GOOD.encode()) + b"IKCFG_ED"
    (home / "vmlinux").write_bytes(data)
    with (home / "vmlinux").open("rb") as stream:
        done = krg("config", "lint", "--policy", POLICY, "-", "vmlinux", stdin=stream)
    assert (done.returncode, done.stdout) == (0, "2 files: no findings\n")


def test_known_and_ignored_findings(krg: Command, home: Path) -> None:
    path = home / "c"
    path.write_text("CONFIG_KEYS=y\nCONFIG_NET=y\n")
    options = ("config", "lint", "--policy", POLICY, "--fail-on", "info", path)
    assert krg(*options).returncode == 1
    done = krg(*options, "--write-baseline", "base.json")
    assert (done.returncode, done.stdout) == (0, "1 file: no findings, 6 known\n")
    path.write_text("#\nCONFIG_KEYS=y\n# CONFIG_NET is not set\n")
    done = krg(*options, "--baseline", "base.json", "--format", "json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["known"] == 6
    assert [(f["rule"], f["symbol"]) for f in report["findings"]] == [("mini/firewall", "NET")]
    path.write_text(
        "CONFIG_KEYS=y\nCONFIG_NET=y\n# krg-lint: ignore keys they do no harm here\n"
        "# krg-lint: ignore mini/ssi:TIPC not yet\n# krg-lint: ignore nothing at all\n"
    )
    report = json.loads(krg(*options, "--format", "json").stdout)
    assert report["ignored"] == 2
    left = {(f["rule"], f["symbol"], f["line"]) for f in report["findings"]}
    assert ("config/ignore", "", 5) in left and ("mini/keys", "KEYS", 1) not in left
    assert ("mini/ssi", "KERRIGHED", 0) in left


def test_a_report_in_a_file(krg: Command, good: Path, home: Path) -> None:
    done = krg("config", "lint", "--policy", "none", "--format", "sarif", "-o", "r.sarif", good)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((home / "r.sarif").read_text())["version"] == "2.1.0"


def test_the_fast_path_imports_nothing_heavy(good: Path) -> None:
    code = (
        "import sys\nfrom provision.cli import main\n"
        f"try:\n main(['config', 'lint', '--policy', {POLICY!r}, {str(good)!r}])\n"
        "except SystemExit as stop:\n assert not stop.code, stop.code\n"
        "print(*[m for m in ('kconfiglib', 'rich', 'fabric', 'jinja2', 'difflib') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1 file: no findings\n\n", done.stderr


def test_files_checked_in_turn_do_not_mix() -> None:
    """A tree keeps a file's values until it is given another's."""
    trees = lint_tree.load(TREE, "x86_64")
    texts = ["CONFIG_NET=y\nCONFIG_NO_SUCH=y\n", "# CONFIG_NET is not set\nCONFIG_TIPC=y\n"]
    alone = [lint_tree.lint(subject(text), lint_tree.load(TREE, "x86_64")) for text in texts]
    first, second = map(subject, texts)
    assert lint_tree.final_values(first.config, trees)["NET"] == "y"
    assert lint_tree.final_values(second.config, trees)["NET"] == "n"
    assert [lint_tree.lint(first, trees), lint_tree.lint(second, trees)] == alone
    assert lint_tree.lint(first, trees) == alone[0]


def test_a_string_beyond_ascii_is_kept(tmp_path: Path) -> None:
    text = 'CONFIG_LOCALVERSION="-grün"\n'
    assert not [f for f in lint_tree.lint(subject(text), lint_tree.load(TREE, "x86_64"))
                if f.symbol == "LOCALVERSION"]  # fmt: skip


def test_what_nobody_sets_is_no_alarm(home: Path) -> None:
    """Kernel configurations are full of values that the tools of another machine decided."""
    trees = lint_tree.load(TREE, "x86_64")
    no_tipc = GOOD.replace("CONFIG_TIPC=y", "# CONFIG_TIPC is not set")
    (whole,) = [f for f in lint_tree.lint(subject(no_tipc), trees) if f.symbol == "TIPC"]
    assert (whole.severity, whole.fix) == (
        "info", "none: selected by KERRIGHED",
    )  # fmt: skip
    fragment = "CONFIG_ARCH_HAS_NOTHING=y\n"
    (asked,) = [f for f in lint_tree.lint(subject(fragment), trees) if f.symbol in fragment]
    assert (asked.rule, asked.severity) == ("tree/not-kept", "required")
