# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy, an entry on trial: whatever is done in whatever order, the way back stays."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_grub_legacy import BODY, DEBIAN, ONE, OTHER_BODY, menus

from grub import legacy, legacy_back, legacy_put, legacy_trial
from grub.legacy_trial import Switched

TIMED = "timeout 5\n" + ONE
STEPS = {
    "arm": legacy_trial.arm,
    "commit": legacy_trial.commit,
    "disarm": legacy_trial.disarm,
}


class Disk:
    """menu.lst and the number in /boot/grub/default, as GRUB and we change them."""

    def __init__(self, text: str, saved: int | None) -> None:
        self.text, self.saved = text, saved

    def take(self, made: Switched) -> None:
        self.text = made.text
        if made.saved is not None:
            self.saved = made.saved

    def boot(self, gone: str | None = None) -> int | None:
        """Boot as GRUB does: return the entry's number, after its savedefault.

        Where the kernel named ``gone`` cannot be loaded, the commands before it were run, and
        the fallbacks are next; None: there is none left, and GRUB waits for a key.
        """
        menu = legacy.entries(self.text)
        first = legacy.default_index(self.text, self.saved)
        for number in (first, *legacy.numbers(self.text, self.saved).fallback):
            for command in menu[number].commands:
                if command.name == "savedefault":
                    self.saved = legacy.leading_number(command.argument)[0] or 0
                    if not command.argument:
                        self.saved = number
            if gone is None or menu[number].file != gone:
                return number
        return None


def check(disk: Disk) -> None:
    """Whatever boots next, an entry that starts by itself is there and is the fallback."""
    number = legacy.default_index(disk.text, disk.saved)
    menu = legacy.entries(disk.text)
    if menu[number].ours:
        good = legacy.numbers(disk.text, disk.saved).fallback
        assert len(good) == 1 and menu[good[0]].usable and not menu[good[0]].ours
    assert legacy_trial.good_index(disk.text, disk.saved) < len(menu)


@given(
    menus(),
    st.none() | st.integers(0, 3),
    st.lists(st.sampled_from([*STEPS, "boot", "put"]), max_size=6),
)
def test_any_order_keeps_the_way_back(text: str, saved: int | None, steps: list[str]) -> None:
    try:
        disk = Disk(legacy_put.put(text, BODY, saved), saved)
    except legacy.MenuError:
        return
    installed = disk.text
    for step in steps:
        if step == "boot":
            disk.boot()
            continue
        try:
            if step == "put":
                disk.text = legacy_put.put(disk.text, OTHER_BODY, disk.saved)
                disk.text = legacy_put.put(disk.text, BODY, disk.saved)
            else:
                disk.take(STEPS[step](disk.text, disk.saved))
        except legacy.MenuError:
            continue
        check(disk)
        if step != "put":
            before = disk.text
            disk.take(STEPS[step](disk.text, disk.saved))
            assert disk.text == before
    try:
        disk.take(legacy_trial.disarm(disk.text, disk.saved))
    except legacy.MenuError:
        return
    assert disk.text == installed
    assert not legacy.boots_ours(disk.text, disk.saved)
    try:
        disk.take(legacy_trial.take_out(disk.text, disk.saved))
    except legacy.MenuError:
        return
    assert disk.text == text


@pytest.mark.parametrize("default", ["default 0\n", "", "default saved\n", "default=0\r\n"])
@pytest.mark.parametrize("fallback", ["fallback 0\n", "", "fallback\t0 0\n"])
def test_the_procedure(default: str, fallback: str) -> None:
    text = default + fallback + TIMED
    disk = Disk(legacy_put.put(text, BODY), None)
    assert legacy_trial.state(disk.text, disk.saved) == "installed"
    disk.take(legacy_trial.arm(disk.text, disk.saved))
    assert legacy_trial.state(disk.text, disk.saved) == "armed"
    assert disk.saved == 1
    # Our entry's first command: what comes after a kernel that fails to load is not run.
    first = next(e for e in legacy.entries(disk.text) if e.ours).commands[0]
    assert first == legacy.Command("savedefault", "0")
    assert disk.boot() == 1
    assert legacy_trial.state(disk.text, disk.saved) == "installed"
    assert disk.boot() == 0
    disk.take(legacy_trial.commit(disk.text, disk.saved))
    assert legacy_trial.state(disk.text, disk.saved) == "default"
    assert [disk.boot(), disk.boot()] == [1, 1]
    assert legacy.numbers(disk.text, disk.saved).fallback == (0,)
    disk.take(legacy_trial.take_out(disk.text, disk.saved))
    assert disk.text == text
    assert disk.boot() == 0


def body(build: str) -> str:
    return BODY.replace("2.6.20-krg", f"2.6.20-krg-{build}")


def kernel(build: str) -> str:
    return f"vmlinuz-2.6.20-krg-{build}"


def safe(disk: Disk, proven: set[str]) -> None:
    """No build boots that has not proven itself, but for once; nothing falls back to one."""
    menu = legacy.entries(disk.text)

    def known(number: int | None) -> bool:
        assert number is not None
        return not menu[number].ours or menu[number].file in proven

    copy = Disk(disk.text, disk.saved)
    copy.boot()
    assert known(copy.boot()), "a trial is for one boot"
    assert all(known(n) and menu[n].usable for n in legacy.numbers(disk.text, disk.saved).fallback)
    assert [e.file for e in menu if e.ours] == [one.kernel for one in legacy.own(disk.text)]
    # If ours cannot be loaded, another is, of those that are known.
    default = menu[legacy.default_index(disk.text, disk.saved)]
    assert not default.ours or known(Disk(disk.text, disk.saved).boot(default.file))


DEPLOY = {"try": ["put", "arm"], "deploy": ["put", "arm", "commit"]}


@given(
    menus(),
    st.none() | st.integers(0, 3),
    st.lists(
        st.tuples(st.sampled_from(["deploy", "try", "put", *STEPS]), st.sampled_from("abc")),
        max_size=6,
    ),
)
@example("default 0\n" + TIMED, None, [("deploy", "a"), ("deploy", "b"), ("put", "c")])
@example(
    "default 0\n" + TIMED, None, [("deploy", "a"), ("try", "b"), ("disarm", "b"), ("try", "c")]
)
def test_any_order_of_three_builds(
    text: str, saved: int | None, wishes: list[tuple[str, str]]
) -> None:
    try:
        disk = Disk(legacy_trial.put(text, body("a"), saved), saved)
    except legacy.MenuError:
        return
    if legacy.boots_ours(disk.text, disk.saved):
        return
    others = [entry for entry in legacy.entries(text)]
    proven: set[str] = set()
    for step, build in ((s, build) for wish, build in wishes for s in DEPLOY.get(wish, [wish])):
        was = legacy.proven(disk.text, disk.saved)
        try:
            if step == "put":
                made = Switched(legacy_trial.put(disk.text, body(build), disk.saved), None)
                again = legacy_trial.put(made.text, body(build), disk.saved)
                assert again == made.text, "put twice is put once"
            else:
                made = STEPS[step](disk.text, disk.saved, kernel(build))
        except legacy.MenuError:
            continue
        there = [one.kernel for one in legacy.own(disk.text)]
        now = proven | ({kernel(build)} if step == "commit" and kernel(build) in there else set())
        half = Disk(disk.text, disk.saved)
        if made.menu_first:
            half.text = made.text
        elif made.saved is not None:
            half.saved = made.saved
        if was is not None or legacy.numbers(disk.text).is_saved or made.saved is None:
            safe(half, now)
        disk.take(made)
        kernels = [one.kernel for one in legacy.own(disk.text)]
        assert 1 <= len(kernels) <= 2
        proven = now & set(kernels)
        safe(disk, proven)
        stays = legacy.proven(disk.text, disk.saved)
        if was is not None and (step == "put" or (step == "arm" and was.kernel != kernel(build))):
            assert stays is not None and stays.kernel == was.kernel, "the default stays"
        if step == "arm":
            number = disk.boot()
            assert legacy.entries(disk.text)[number or 0].file == kernel(build)
            back = disk.boot()
            if was is not None and was.kernel != kernel(build):
                assert legacy.entries(disk.text)[back or 0].file == was.kernel
            assert disk.boot() == back
        mine = [e for e in legacy.entries(disk.text) if not e.ours]
        assert [e.title for e in mine] == [e.title for e in others]
    try:
        disk.take(legacy_trial.take_out(disk.text, disk.saved))
    except legacy.MenuError:
        return
    assert disk.text == text


def test_two_builds_and_the_way_back() -> None:
    disk = Disk("default 0\n" + TIMED, None)
    text = disk.text
    for build in "ab":
        disk.text = legacy_trial.put(disk.text, body(build), disk.saved)
        disk.take(legacy_trial.arm(disk.text, disk.saved, kernel(build)))
        disk.boot()
        disk.take(legacy_trial.commit(disk.text, disk.saved, kernel(build)))
    # The former one first, then another system.
    assert legacy.numbers(disk.text, disk.saved) == legacy.Numbers(2, True, (1, 0))
    assert [disk.boot(kernel("b")), disk.boot(kernel("b")), disk.boot()] == [1, 1, 2]
    disk.text = legacy_trial.put(disk.text, body("c"), disk.saved)
    # It has the number that was a's, and is not what b falls back to.
    assert legacy.numbers(disk.text, disk.saved) == legacy.Numbers(2, True, (0,))
    disk.take(legacy_trial.arm(disk.text, disk.saved, kernel("c")))
    assert legacy.numbers(disk.text, disk.saved) == legacy.Numbers(1, True, (2, 0))
    assert [disk.boot(kernel("c")), disk.boot()] == [2, 2]
    disk.take(legacy_trial.arm(disk.text, disk.saved, kernel("c")))
    assert [disk.boot(), disk.boot(), disk.boot()] == [1, 2, 2]
    disk.take(legacy_trial.disarm(disk.text, disk.saved, kernel("c")))
    disk.take(legacy_trial.take_out(disk.text, disk.saved))
    assert disk.text == text and disk.boot() == 0


def test_a_number_that_update_grub_moved_boots_what_was_never_tried_once_at_most() -> None:
    disk = Disk("default 0\n" + TIMED, None)
    for build in "ab":
        disk.text = legacy_trial.put(disk.text, body(build), disk.saved)
        disk.take(legacy_trial.commit(disk.text, disk.saved, kernel(build)))
    disk.text = legacy_trial.put(disk.text, body("c"), disk.saved)
    disk.text = disk.text.replace(ONE, ONE.replace("Debian", "New") + ONE)
    booted = [legacy.entries(disk.text)[disk.boot() or 0].file for _ in range(3)]
    assert booted == [kernel("c"), "vmlinuz", "vmlinuz"]


def test_entries_below_ours_keep_their_numbers() -> None:
    below = "title Later\nroot (hd0,1)\nkernel /vmlinuz root=/dev/hda2 ro\n"
    disk = Disk(legacy_trial.put("default 0\n" + TIMED, body("a")) + below, None)
    disk.take(legacy_trial.commit(disk.text, disk.saved, kernel("a")))
    text = disk.text.replace("fallback 0", "fallback 2")
    with pytest.raises(legacy.MenuError, match="fallback is 2, an entry below ours"):
        legacy_trial.put(text, body("b"), disk.saved)
    assert len(legacy.own(legacy_trial.put(disk.text, body("b"), disk.saved))) == 2


def test_a_second_entry_of_somebody_is_not_taken_for_ours() -> None:
    done = legacy_trial.put(TIMED, body("a"))
    alien = done.replace("### END KRG", "title Mine\nkernel /mine root=/dev/hda1 ro\n### END KRG")
    with pytest.raises(legacy.MenuError, match="more than its entries"):
        legacy_trial.put(alien, body("b"))


@given(st.sampled_from(["arm", "commit", "disarm"]), st.sampled_from(["arm", "commit", "none"]))
def test_interrupted_between_the_files(second: str, first: str) -> None:
    """Of two files only the first is there: never our entry without what undoes it."""
    for head, saved in (("default 0\n", None), ("default saved\n", 0), ("default 0\n", 1)):
        disk = Disk(legacy_put.put(head + TIMED, BODY, saved), saved)
        if first != "none":
            disk.take(STEPS[first](disk.text, disk.saved))
        was = legacy_trial.state(disk.text, disk.saved)
        made = STEPS[second](disk.text, disk.saved)
        half = Disk(disk.text, disk.saved)
        if made.menu_first:
            half.text = made.text
        elif made.saved is not None:
            half.saved = made.saved
        (number,) = (one.number for one in legacy.own(half.text))
        boots = half.boot()
        if boots == number and "commit" not in (second, first):
            assert half.boot() == 0, (head, first, second)
        assert was in ("installed", "armed", "default")


def test_the_file_is_what_grub_set_default_writes() -> None:
    content = legacy_trial.default_file(3)
    assert len(content) == 190 and content.startswith("3\n#\n")
    assert legacy.saved_index(content) == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ONE, "no timeout"),
        ("timeout -1\n" + ONE, "no timeout"),
        ("default 0 \\\n\n" + TIMED, "goes on in the next line"),
        (TIMED.replace("root (hd0,0)", "pause"), "no way back"),
        ("password x\n" + TIMED.replace("root (hd0,0)", "lock"), "no way back"),
        (TIMED.replace("root (hd0,0)", "savedefault 1"), "no way back"),
    ],
)
def test_menus_that_cannot_be_armed(text: str, why: str) -> None:
    text = legacy_put.put(text, BODY)
    for change in (legacy_trial.arm, legacy_trial.commit):
        with pytest.raises(legacy.MenuError, match=why):
            change(text)


def test_the_good_entry_starts_by_itself() -> None:
    memtest = "title Memtest\nkernel /memtest86+.bin\n"
    windows = "title Windows\nrootnoverify (hd0,1)\nmakeactive\nchainloader +1\n"
    single = ONE.replace("ro\n", "ro single\n")
    for order, good in (
        (memtest + windows + single + ONE, 3),
        (single + ONE + memtest, 1),
        (windows + ONE + single, 1),
    ):
        text = legacy_put.put("timeout 1\n" + order, BODY)
        assert legacy_trial.good_index(text) == good
        assert f"\nfallback {good}\n" in "\n" + legacy_trial.arm(text).text


def test_what_somebody_changed_meanwhile_stays() -> None:
    disk = Disk(legacy_put.put(DEBIAN, BODY), None)
    disk.take(legacy_trial.arm(disk.text, disk.saved))
    disk.text = disk.text.replace("default\t\tsaved", "default 0", 1).replace(
        "timeout 5", "timeout 9"
    )
    disk.take(legacy_trial.take_out(disk.text, disk.saved))
    want = DEBIAN.replace("default\t\t1", "default 0").replace("timeout 5", "timeout 9")
    assert disk.text == want


def test_ours_by_its_number_goes_back_to_a_good_one() -> None:
    text = "default 1\n" + legacy_put.put(TIMED, BODY)
    assert legacy_trial.state(text) == "default"
    done = legacy_trial.disarm(text)
    assert done.text.startswith("default 0\n") and legacy_trial.state(done.text) == "installed"


def reached(text: str, saved: int | None, steps: list[str]) -> Disk | None:
    """Return what a menu and its saved number are after some deploys and trials."""
    disk = Disk(text, saved)
    for step in steps:
        what, _, which = step.partition(" ")
        try:
            if what == "put":
                disk.text = legacy_trial.put(disk.text, body(which), disk.saved)
            else:
                disk.take(STEPS[what](disk.text, disk.saved))
        except legacy.MenuError:
            return None
    return disk


WORK = st.lists(st.sampled_from(["put a", "put b", "put c", "commit", "arm", "disarm"]), max_size=6)


@given(menus(), st.none() | st.integers(0, 3), WORK, WORK)
@example(TIMED, None, ["put a", "commit", "put b", "commit"], ["put c", "commit"])
@example(TIMED, None, ["put a", "commit", "put b"], ["put c", "arm"])
@example("default saved\n" + TIMED, 0, ["put a"], ["put b", "arm"])
def test_former_entries_come_back_into_another_menu(
    text: str, saved: int | None, work: list[str], more: list[str]
) -> None:
    before = reached(text, saved, work)
    now = before and reached(before.text, before.saved, more)
    if before is None or now is None:
        return
    trial = any(legacy_trial.state(before.text, before.saved, one.kernel) == "armed"
                for one in legacy.own(before.text))  # fmt: skip
    try:
        made = legacy_back.as_before(now.text, now.saved, before.text, before.saved)
    except legacy.MenuError:
        # Refused is what was refused before, too.
        return
    number = now.saved if made.saved is None else made.saved
    if not trial:
        assert [one.kernel for one in legacy.own(made.text)] == [
            one.kernel for one in legacy.own(before.text)
        ]
        assert legacy.proven(made.text, number) == legacy.proven(before.text, before.saved)
    # Cut between the two files it boots what was the default, or becomes it, or one once.
    half = (made.text, now.saved) if made.menu_first else (now.text, number)
    proven = [legacy.proven(*menu) for menu in ((now.text, now.saved), (made.text, number))]
    kernels = [one.kernel for one in proven if one is not None]
    booted = legacy.default_index(*half)
    assert all(
        one.number != booted or one.saves is not None or one.kernel in kernels
        for one in legacy.own(half[0])
    )
    plain = legacy_trial.take_out(made.text, number)
    assert plain.text == legacy_trial.take_out(before.text, before.saved).text


def test_former_entries_byte_for_byte_and_beside_new_kernels() -> None:
    before = reached(DEBIAN, None, ["put a", "commit", "put b", "commit"])
    assert before is not None
    now = reached(before.text, before.saved, ["put c", "commit"])
    assert now is not None
    made = legacy_back.as_before(now.text, now.saved, before.text, before.saved)
    # There is a number now; as before, it means the first entry.
    note = "saved default was {}"
    expect = before.text.replace(note.format("not there"), note.format(0))
    assert (made.text, before.saved) == (expect, now.saved if made.saved is None else made.saved)
    # update-grub adds a kernel above: the numbers are those of now.
    title = (
        "title\t\tDebian, new\nroot\t\t(hd0,0)\nkernel\t\t/boot/vmlinuz-new root=/dev/hda1 ro\n\n"
    )
    mark = "### END DEBIAN AUTOMAGIC KERNELS LIST\n"
    assert mark in now.text
    newer = now.text.replace(mark, title + mark)
    made = legacy_back.as_before(newer, now.saved, before.text, before.saved)
    disk = Disk(newer, now.saved)
    disk.take(made)
    assert title in disk.text and [one.kernel for one in legacy.own(disk.text)] == [
        kernel("a"), kernel("b")
    ]  # fmt: skip
    assert legacy_trial.state(disk.text, disk.saved, kernel("b")) == "default"
    number = disk.boot()
    assert number is not None and legacy.entries(disk.text)[number].file == kernel("b")
    disk.take(legacy_trial.take_out(disk.text, disk.saved))
    assert disk.text == DEBIAN.replace(mark, title + mark)
