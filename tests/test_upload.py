# SPDX-License-Identifier: GPL-2.0-or-later
"""What is sent to a node is one tar, gzip'ed or not, that real tar, gzip and busybox read."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision import upload
from provision.errors import FailedError
from provision.node import apply_script
from provision.plan import Change, Plan, Wanted, text_wanted
from provision.upload import write_tar

STAGE = ".krg-provision-0123456789abcdef"


def plan_of(directory: Path, contents: list[bytes]) -> Plan:
    wanted = [text_wanted("/etc/default/kerrighed", b"ENABLE=true\n")]
    for number, content in enumerate(contents):
        source = directory / f"source{number}"
        source.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        # Names longer than a tar header holds, too.
        path = f"/lib/modules/2.6.20/{'long/' * (number % 30)}{number}.ko"
        wanted.append(Wanted(path, digest, len(content), 0o644, source=source))
    wanted.append(Wanted("/usr/local/bin/migrate", "", 0, 0o777, target="krgadm"))
    return Plan("krg1", tuple(Change(one, None) for one in wanted))


def sent(plan: Plan, *, packed: bool = True) -> bytes:
    pipe = io.BytesIO()
    write_tar(pipe, plan, STAGE, lambda _: None, packed=packed)
    return pipe.getvalue()


def expected(plan: Plan) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for change in plan.changes:
        one = change.wanted
        place = upload.staged(change, STAGE)
        if one.target is not None:
            found[place] = one.target
        else:
            found[place] = one.content if one.source is None else one.source.read_bytes()  # type: ignore[assignment]
    return found


CONTENTS = st.lists(
    st.one_of(
        st.binary(max_size=2000),
        st.builds(lambda part, count: part * count, st.binary(min_size=1), st.integers(1, 4000)),
        st.sampled_from([b"", bytes(511), bytes(512), bytes(513), bytes(70_000)]),
    ),
    max_size=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents=CONTENTS)
def test_every_byte_arrives(tmp_path: Path, contents: list[bytes]) -> None:
    plan = plan_of(tmp_path, contents)
    # The second node gets what was compressed for the first.
    for raw, mode in ((sent(plan), "r:gz"), (sent(plan), "r:gz"), (sent(plan, packed=False), "r:")):
        with tarfile.open(fileobj=io.BytesIO(raw), mode=mode) as archive:
            found: dict[str, bytes | str] = {}
            for member in archive:
                if member.name.startswith(f"etc/{STAGE}/") and member.name.count("/") == 2:
                    continue
                stream = archive.extractfile(member) if member.isfile() else None
                found[f"/{member.name}"] = member.linkname if stream is None else stream.read()
        assert found == expected(plan)


@pytest.mark.parametrize("tools", [("gzip", "tar"), ("busybox gzip", "busybox tar")])
def test_real_programs_read_it(tmp_path: Path, tools: tuple[str, str]) -> None:
    if shutil.which(tools[0].split()[0]) is None:
        pytest.skip("needs busybox: apt-get install busybox-static")
    contents = [b"", b"x" * 100_000, bytes(range(256)) * 5000, b"\n"]
    plan = plan_of(tmp_path, contents)
    raw = sent(plan)
    subprocess.run([*tools[0].split(), "-t"], input=raw, check=True)
    for how, data in (("-xzf", raw), ("-xf", sent(plan, packed=False))):
        out = tmp_path / f"out{how}"
        out.mkdir()
        subprocess.run([*tools[1].split(), how, "-", "-C", str(out)], input=data, check=True)
        for place, content in expected(plan).items():
            path = out / place.lstrip("/")
            arrived = str(path.readlink()) if isinstance(content, str) else path.read_bytes()
            assert arrived == content


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents=CONTENTS, size=st.integers(0, 3 << 20))
def test_sums_are_those_of_cksum(tmp_path: Path, contents: list[bytes], size: int) -> None:
    contents = [*contents, random.Random(size).randbytes(size)]
    paths = [tmp_path / f"summed{number}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    said = subprocess.check_output(["cksum", *paths], text=True)
    lines = [f"{upload.crc(c)} {len(c)} {p}" for p, c in zip(paths, contents, strict=True)]
    assert said.splitlines() == lines


def test_a_build_that_changed_since_the_plan_is_not_sent(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [b"one", b"two"])
    (tmp_path / "source1").write_bytes(b"2wo")
    with pytest.raises(FailedError, match="source1: changed since the plan was made"):
        upload.lists(plan, STAGE)
    # Nor to the next node, when it was right for the first.
    (tmp_path / "source1").write_bytes(b"two")
    assert f"{upload.crc(b'two')} 3 " in "\n".join(upload.lists(plan, STAGE)["crcs"])
    (tmp_path / "source1").write_bytes(b"2wo")
    with pytest.raises(FailedError, match="source1: changed since the plan was made"):
        upload.lists(plan, STAGE)
    (tmp_path / "source1").unlink()
    with pytest.raises(FailedError, match="source1: No such file"):
        upload.lists(plan, STAGE)
    with pytest.raises(FailedError, match="source1: No such file"):
        sent(plan, packed=False)


@pytest.mark.parametrize("count", [1, 200])
def test_long_lists_go_as_files(tmp_path: Path, count: int) -> None:
    """A shell reads a script piece by piece, and takes long over a long one."""
    plan = plan_of(tmp_path, [b"x"] * count)
    found = upload.lists(plan, STAGE)
    with tarfile.open(fileobj=io.BytesIO(sent(plan))) as archive:
        written = {
            Path(member.name).name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive
            if member.name.startswith(f"etc/{STAGE}/") and member.name.count("/") == 2
        }
    script = apply_script(plan, "2.6.20", "20260101T000000Z", "0123456789abcdef")
    assert len(script) < 40_000
    if count == 1:
        assert written.keys() == {"sums", "whole"}
        assert all("\n".join(lines) in script for lines in found.values())
    else:
        assert written.keys() == {"sums", "whole", *found}
        assert all(written[name].splitlines() == lines for name, lines in found.items())
        assert found["late"][-1] not in script


def test_what_is_small_already_is_not_compressed(tmp_path: Path) -> None:
    noise, text = random.Random(1).randbytes(200_000), b"all alike\n" * 20_000
    assert not upload.is_worth_packing(plan_of(tmp_path, [noise]))
    assert upload.is_worth_packing(plan_of(tmp_path, [text]))
    # A beginning says little of a file, and a small file little of many.
    assert not upload.is_worth_packing(plan_of(tmp_path, [text[:70_000] + noise * 3]))
    assert upload.is_worth_packing(plan_of(tmp_path, [noise[:50_000], text, b""]))
    # The error is left to whoever reads it all.
    gone = plan_of(tmp_path, [noise[:100_000]])
    (tmp_path / "source0").unlink()
    assert upload.is_worth_packing(gone)


def test_what_is_kept_for_the_next_node_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    packer = upload._Packer()
    packer._left = 10_000
    for number in range(8):
        content = os.urandom(3000)
        assert packer.packed(str(number), content) == packer.packed(str(number), content)
    assert sum(map(len, packer._found.values())) <= 10_000
    assert len(packer._found) == 3
