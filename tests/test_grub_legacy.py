# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy's menu.lst: property tests, with grub-menulst2cfg as the judge of kernel lines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grub import kernel_line, legacy, legacy_put

ORACLE = shutil.which("grub-menulst2cfg")
needs_oracle = pytest.mark.skipif(
    ORACLE is None, reason="needs grub-menulst2cfg: apt-get install grub-common"
)

BODY = """\
title\t\tKerrighed 2.6.20-krg (node 2, session 1)
root\t\t(hd0,0)
kernel\t\t/boot/vmlinuz-2.6.20-krg root=/dev/hda1 ro session_id=1 node_id=2 panic=10
"""
OTHER_BODY = BODY.replace("node_id=2", "node_id=3").replace("node 2", "node 3")

DEBIAN = (
    "default\t\t1\n"
    "timeout 5\n"
    "### BEGIN AUTOMAGIC KERNELS LIST\n"
    "# kopt=root=/dev/hda1 ro\n"
    "\n"
    "title\t\tDebian GNU/Linux, kernel 2.6.26-2-686\n"
    "root\t\t(hd0,0)\n"
    "kernel\t\t/boot/vmlinuz-2.6.26-2-686 root=/dev/hda1 ro quiet\n"
    "initrd\t\t/boot/initrd.img-2.6.26-2-686\n"
    "\n"
    "title\t\tDebian GNU/Linux, kernel 2.6.26-2-686 (single-user mode)\n"
    "root\t\t(hd0,0)\n"
    "kernel\t\t/boot/vmlinuz-2.6.26-2-686 root=/dev/hda1 ro single\n"
    "### END DEBIAN AUTOMAGIC KERNELS LIST\n"
    "\n"
    "title\t\tAnother system\n"
    "rootnoverify\t(hd0,1)\n"
    "savedefault\n"
    "chainloader\t+1\n"
)

NORMAL = "Debian GNU/Linux, kernel 2.6.26-2-686"
SINGLE = NORMAL + " (single-user mode)"


def oracle(text: str, directory: Path) -> list[tuple[str, list[str]]]:
    """Return (title, words of the kernel line) of every Linux entry as GRUB 2 converts them."""
    assert ORACLE is not None
    path = directory / "menu.lst"
    path.write_bytes(text.encode("latin-1"))
    done = subprocess.run([ORACLE, str(path)], capture_output=True, check=True)
    found: list[tuple[str, list[str]]] = []
    title = ""
    for line in done.stdout.decode("latin-1").split("\n"):
        if match := re.match(r"menuentry '(.*)' \{", line):
            title = match.group(1)
        elif line.startswith("  legacy_kernel "):
            # The path comes as GRUB 2 names it, then as it was written; a carriage
            # return, which GRUB Legacy skips, becomes an empty word.
            words = re.findall(r"'([^']*)'", line)
            found.append((title, [word for word in words[1:] if word]))
    return found


# Lines of menus as they occur, and some that hardly do.
LINES = st.sampled_from(
    [
        "default\t\t0",
        "default=1",
        "default saved",
        "timeout = 5",
        "fallback 1",
        "# a comment",
        "# a comment that goes on \\",
        "color cyan/blue white/blue",
        "hiddenmenu",
        "password --md5 $1$abc$def",
        "title\t\tDebian",
        "title Windows",
        "  title indented",
        "root\t\t(hd0,0)",
        "rootnoverify (hd0,1)",
        "uuid\t\t1234-abcd",
        "kernel\t\t/boot/vmlinuz-2.6.26 root=/dev/hda1 ro quiet",
        "kernel /vmlinuz root=/dev/sda1 ro \\",
        "\tkernel --no-mem-option (hd0,0)/vmlinuz root=LABEL=x ro",
        "initrd\t\t/boot/initrd.img-2.6.26",
        "chainloader +1",
        "makeactive",
        "lock",
        "savedefault",
        "boot",
        "",
        "   ",
        "\x00\xff\x85\x0c",
        "### BEGIN AUTOMAGIC KERNELS LIST",
        "### END DEBIAN AUTOMAGIC KERNELS LIST",
    ]
)
ENDS = st.sampled_from(["\n", "\r\n", "\n\n"])
NO_MARKERS = st.characters(max_codepoint=255, blacklist_characters="#")


@st.composite
def menus(draw: st.DrawFn) -> str:
    text = "".join(
        line + draw(ENDS)
        for line in draw(st.lists(st.one_of(LINES, st.text(NO_MARKERS)), max_size=14))
    )
    if draw(st.booleans()):
        text += draw(st.sampled_from(DEBIAN.split("\n")))
    return text if draw(st.booleans()) else DEBIAN + text


def put(text: str, body: str = BODY) -> str | None:
    try:
        return legacy_put.put(text, body)
    except legacy.MenuError:
        return None


@given(menus())
def test_put_then_remove_gives_the_same_bytes(text: str) -> None:
    done = put(text)
    if done is not None:
        assert done.startswith(text)
        assert legacy_put.remove(done) == text


@given(menus())
def test_twice_is_once_and_an_update_touches_only_ours(text: str) -> None:
    once = put(text)
    if once is not None:
        assert legacy_put.put(once, BODY) == once
        other = legacy_put.put(once, OTHER_BODY)
        assert legacy_put.put(other, BODY) == once
        assert legacy_put.remove(other) == text


@given(menus())
def test_numbers_of_other_entries_stay_and_one_boots(text: str) -> None:
    done = put(text)
    if done is not None:
        before, after = legacy.entries(text), legacy.entries(done)
        assert after[:-1] == before
        assert after[-1].ours and after[-1].bootable
        assert any(entry.usable for entry in before)
        assert legacy.default_index(done) == legacy.default_index(text)


@given(menus(), st.text(NO_MARKERS))
def test_what_others_append_stays(text: str, tail: str) -> None:
    done = put(text)
    if done is not None:
        changed = done + "title x\nchainloader +1\n" + tail
        updated = legacy_put.put(changed, OTHER_BODY)
        assert legacy_put.put(updated, BODY) == changed
        assert legacy_put.remove(changed) == text + "title x\nchainloader +1\n" + tail


@needs_oracle
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [
                "title\t\tOne\nroot (hd0,0)\nkernel /boot/vmlinuz-1 root=/dev/hda1 ro\n",
                "title Two\nroot\t(hd0,1)\nkernel\t/vmlinuz root=/dev/sda2  ro  q\nsavedefault\n",
                "title Three\nrootnoverify (hd0,2)\nchainloader +1\n",
                "# kernel /boot/no root=/dev/none\n",
                "timeout=3\n",
                "\n",
                "title Four\nkernel (hd0,0)/boot/vmlinuz-4 root=/dev/hda3 vga=0x317\r\n",
            ]
        ),
        max_size=6,
    )
)
def test_kernel_lines_are_what_grub_reads(tmp_path: Path, parts: list[str]) -> None:
    text = DEBIAN + "".join(parts)
    done = legacy_put.put(text, BODY)
    ours = [
        (entry.title, [entry.kernel.path, *entry.kernel.arguments])
        for entry in legacy.entries(done)
        if entry.kernel is not None
    ]
    assert ours == oracle(done, tmp_path)
    assert ours[-1] == (
        "Kerrighed 2.6.20-krg (node 2, session 1)",
        BODY.split("kernel\t\t")[1].split(),
    )


@needs_oracle
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n", " \\", "\\\n", "\\\r\n"])
def test_last_line_of_any_kind_does_not_swallow_ours(end: str, tmp_path: Path) -> None:
    text = DEBIAN.rstrip("\n") + end
    done = legacy_put.put(text, BODY)
    assert legacy.entries(done)[-1].kernel is not None
    assert oracle(done, tmp_path)[-1][1][-2:] == ["node_id=2", "panic=10"]
    assert legacy_put.remove(done) == text


def test_line_ends_follow_the_file() -> None:
    done = legacy_put.put(DEBIAN.replace("\n", "\r\n"), BODY)
    assert done.count("\n") == done.count("\r\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no bootable entry"),
        ("title Only a title\nroot (hd0,0)\n", "no bootable entry"),
        (DEBIAN.replace("### END", "### AND"), "never ends"),
        (legacy_put.put(DEBIAN, BODY).replace("### END KRG", "### AND KRG"), "marker"),
        (legacy_put.put(DEBIAN, BODY) + legacy_put.put(DEBIAN, BODY), "marker"),
    ],
)
def test_files_that_cannot_be_edited_safely(text: str, why: str) -> None:
    with pytest.raises(legacy.MenuError, match=why):
        legacy_put.put(text, BODY)


@pytest.mark.parametrize("body", ["title x\n", "kernel /x\n", BODY + "### END KRG-PROVISION ###\n"])
def test_stanza_must_be_one(body: str) -> None:
    with pytest.raises(legacy.MenuError, match="stanza"):
        legacy_put.put(DEBIAN, body)


def test_remove_never_leaves_nothing_to_boot() -> None:
    done = legacy_put.put(DEBIAN, BODY)
    start = done.index("### BEGIN KRG")
    assert legacy_put.remove(DEBIAN) == DEBIAN
    with pytest.raises(legacy.MenuError, match="no bootable"):
        legacy_put.remove(done[start:])


@pytest.mark.parametrize(
    ("text", "saved", "title"),
    [
        # Single-user work is not what another kernel should begin with.
        (DEBIAN, None, NORMAL),
        (DEBIAN.replace("default\t\t1", "default 0"), None, NORMAL),
        (DEBIAN.replace("default\t\t1", "default=2"), None, NORMAL),
        (DEBIAN.replace("default\t\t1", "default saved"), None, NORMAL),
        (
            DEBIAN.replace("default\t\t1", "default\tsaved"),
            1,
            NORMAL,
        ),
        (DEBIAN.replace("ro single", "ro"), None, SINGLE),
        (DEBIAN.replace("default\t\t1", "default 0").replace("quiet", "init=/bin/sh"), None, None),
        (DEBIAN.replace("default\t\t1", "default 99"), None, NORMAL),
        (
            legacy_put.put(DEBIAN, BODY).replace("default\t\t1", "default 3"),
            None,
            "Kerrighed 2.6.20-krg (node 2, session 1)",
        ),
    ],
)  # fmt: skip
def test_known_good_entry(text: str, saved: int | None, title: str | None) -> None:
    if title is None:
        with pytest.raises(legacy.MenuError, match="root="):
            legacy.known_good(text, saved)
    else:
        assert legacy.known_good(text, saved).title == title


def test_no_known_good_entry() -> None:
    with pytest.raises(legacy.MenuError, match="root="):
        legacy.known_good("title Xen\nkernel /boot/xen.gz\nmodule /boot/vmlinuz root=/dev/hda1\n")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2\n#\n#\nWARNING", 2),
        ("12\0#\n#\n", 12),
        ("saved", None),
        ("", None),
        ("3", 3),
        ("99999999999\n", 999999999),
        ("1 second\n", 1),
        ("\0", None),
    ],
)
def test_saved_index(text: str, number: int | None) -> None:
    assert legacy.saved_index(text) == number


@pytest.mark.parametrize(
    ("path", "separate", "want"),
    [
        ("/boot/vmlinuz-2.6.26", False, "/boot/new"),
        ("/boot/vmlinuz-2.6.26", True, "/boot/new"),
        ("/vmlinuz-2.6.26", True, "/new"),
        # Debian's link in the root directory: the file itself is in /boot.
        ("/vmlinuz", False, "/boot/new"),
        ("(hd0,0)/boot/vmlinuz", False, "(hd0,0)/boot/new"),
        ("(hd0,0)/vmlinuz", True, "(hd0,0)/new"),
    ],
)
def test_kernel_path(path: str, separate: bool, want: str) -> None:
    assert kernel_line.path(kernel_line.Kernel(path, ()), "new", boot_is_separate=separate) == want


def test_arguments_are_set_once() -> None:
    before = ("root=/dev/hda1", "ro", "node_id=9", "session_id=3", "panic=5", "noapic")
    ours = (("session_id", "1"), ("node_id", "2"), ("panic", "10"))
    want = ("root=/dev/hda1", "session_id=1", "node_id=2", "panic=10", "ro", "noapic")
    once = kernel_line.with_arguments(before, ours, ("noapic",))
    assert once == want
    assert kernel_line.with_arguments(once, ours, ("noapic",)) == want


ONE = "title\tDebian\nroot (hd0,0)\nkernel /vmlinuz root=/dev/hda1 ro\n"


@pytest.mark.parametrize(
    ("head", "saved"),
    [
        ("default 1\n", None),
        ("default=1\n", None),
        ("default = 1\n", None),
        ("default 0x1\n", None),
        ("default 1 # second\n", None),
        ("default 1 \\\nx\n", None),
        ("default saved\n", 1),
        ("default=saved\n", 7),
        ("default 0\nfallback 1\n", None),
        ("fallback 0 1\n", None),
    ],
)
def test_number_out_of_range_never_comes_to_mean_ours(head: str, saved: int | None) -> None:
    # GRUB boots entry 0 of this menu; with our entry in it, it would boot ours.
    assert legacy.default_index(head + ONE, saved) == 0
    with pytest.raises(legacy.MenuError, match="could come to mean the new entry"):
        legacy_put.put(head + ONE, BODY, saved)


@pytest.mark.parametrize(
    ("head", "saved"),
    [
        ("", None),
        ("default 0\nfallback 0\n", None),
        ("default saved\n", None),
        ("default saved\n", 0),
        # Not in use: nothing reads the saved number.
        ("default 0\n", 1),
        # Only what is above the first title counts, and GRUB knows no "saved ".
        ("default saved \n", 1),
        ("timeout 1\n", None),
    ],
)
def test_numbers_in_range_are_fine(head: str, saved: int | None) -> None:
    done = legacy_put.put(head + ONE + "default 1\n", BODY, saved)
    assert legacy.default_index(done, saved) == 0
    assert not legacy.boots_ours(done, saved)


@given(menus(), st.none() | st.integers(0, 5))
def test_ours_is_never_booted_by_default_because_of_put(text: str, saved: int | None) -> None:
    try:
        done = legacy_put.put(text, BODY, saved)
    except legacy.MenuError:
        return
    assert not legacy.boots_ours(done, saved)
    assert legacy.default_index(done, saved) == legacy.default_index(text, saved)
    assert legacy_put.remove(done, saved) == text


def test_ours_alone_is_no_way_back() -> None:
    done = legacy_put.put(ONE, BODY)
    alone = done[len(ONE) :]
    with pytest.raises(legacy.MenuError, match="no bootable entry"):
        legacy_put.put(alone, OTHER_BODY)
    with pytest.raises(legacy.MenuError, match="no bootable entry"):
        legacy_put.remove(alone)


@pytest.mark.parametrize(
    "other",
    [
        "title Windows\nchainloader +1\n",
        "title Single\nkernel /vmlinuz root=/dev/hda1 single\n",
        "title Shell\nkernel /vmlinuz root=/dev/hda1 init=/bin/bash\n",
        "title No root\nkernel /memtest\n",
    ],
)
def test_what_does_not_start_linux_by_itself_is_no_way_back(other: str) -> None:
    with pytest.raises(legacy.MenuError, match="no bootable entry"):
        legacy_put.put(other, BODY)
    alone = other + legacy_put.put(ONE, BODY)[len(ONE) :]
    with pytest.raises(legacy.MenuError, match="no bootable entry"):
        legacy_put.put(alone, BODY)


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("title Divider\n" + ONE, ["Debian"]),
        ("title Divider\n# root (hd0,0)\n\n" + ONE, ["Debian"]),
        ("title Divider\nsplash /x.xpm\nnonsense\n" + ONE, ["Debian"]),
        ("title Other systems:\nroot\n" + ONE, ["Other systems:", "Debian"]),
        (ONE + "title End\n", ["Debian"]),
        ("title A\ntitle B\nboot\ntitle C\n", ["B"]),
    ],
)
def test_titles_without_a_known_command_are_not_counted(text: str, titles: list[str]) -> None:
    assert [entry.title for entry in legacy.entries(text)] == titles


def test_bare_title_does_not_hide_a_number_that_is_out_of_range() -> None:
    with pytest.raises(legacy.MenuError, match="could come to mean"):
        legacy_put.put("default 1\ntitle Divider\n" + ONE, BODY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title\t\tKerrighed", "title Mine\nchainloader +1\ntitle\t\tKerrighed"),
        ("### END KRG", "title Mine\nchainloader +1\n### END KRG"),
        ("### END KRG", "title Bare\n### END KRG"),
        ("title\t\tKerrighed", "savedefault\ntitle\t\tKerrighed"),
        ("title\t\tKerrighed", "# title\t\tKerrighed"),
    ],
)
def test_what_a_user_put_between_our_markers_is_not_deleted(old: str, new: str) -> None:
    done = legacy_put.put(ONE, BODY).replace(old, new)
    for edit in (lambda: legacy_put.put(done, BODY), lambda: legacy_put.remove(done)):
        with pytest.raises(legacy.MenuError, match="more than its entries"):
            edit()


@pytest.mark.parametrize("slashes", ["\\", "\\\\", "\\\\\\"])
def test_any_backslash_at_the_end_continues_the_line(slashes: str) -> None:
    text = f"default 0 {slashes}\ntitle Swallowed\n{ONE}"
    assert [entry.title for entry in legacy.entries(text)] == ["Debian"]
    with pytest.raises(legacy.MenuError, match="stanza"):
        legacy_put.put(ONE, BODY + "initrd /x" + slashes + "\n")


@pytest.mark.parametrize("head", ["default 1\n", "default 2\n", "fallback 1\n"])
def test_remove_does_not_change_what_a_number_means(head: str) -> None:
    done = head + legacy_put.put(ONE, BODY) + "title Later\nchainloader +1\n"
    with pytest.raises(legacy.MenuError, match="mean entry 1, which is ours, or one below"):
        legacy_put.remove(done)


def test_once_ours_is_the_default_it_is_known() -> None:
    done = "default 1\n" + legacy_put.put(ONE, BODY)
    assert legacy.boots_ours(done)
    assert legacy_put.put(done, BODY) == done
