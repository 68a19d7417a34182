# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of ``report`` in a real browser: it asks for nothing, and prints on few pages."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_values as values
from test_report_page import EVIL

from provision import report

BROWSER = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr",
    # What the browser itself would like to tell others ends here, at a port where nobody listens.
    "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium: apt-get install --no-install-recommends chromium"
)


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    profile = page.with_suffix(".profile")
    done = subprocess.run(
        [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def requested(log: Path) -> list[str]:
    """Return which files and addresses on this machine were asked for, by the browser's own log.

    The browser asks others, on its own account, for what has nothing to do with a page.
    """
    text = log.read_text("utf-8", "replace")
    return re.findall(r'"url":"((?:file:|https?://127\.)[^"]*)"', text)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_it_is_drawn_and_asks_for_nothing(tmp_path: Path) -> None:
    page, shot, log = tmp_path / "page.html", tmp_path / "page.png", tmp_path / "net.json"
    made = values.make(3, {1: {"kernel": EVIL}}, config=f'{values.CONFIG}CONFIG_X="{EVIL}"\n')
    page.write_text(report.html(made), "utf-8")
    done = browse(page, f"--screenshot={shot}", "--window-size=1120,1500", f"--log-net-log={log}")
    assert console(done) == []
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 20_000
    assert set(requested(log)) <= {page.as_uri()}
    # This is how both would be seen: a page that reaches out, with and without the policy.
    text = page.read_text("utf-8")
    reach = text.replace("<main>", "<main><img src='http://127.0.0.1:9/x'>")
    page.write_text(reach, "utf-8")
    done = browse(page, f"--screenshot={shot}", f"--log-net-log={log}")
    assert any("Content Security Policy" in line for line in console(done))
    assert "http://127.0.0.1:9/x" not in requested(log)
    page.write_text(re.sub(r"<meta http-equiv[^>]*>", "", reach), "utf-8")
    browse(page, f"--screenshot={shot}", f"--log-net-log={log}")
    assert "http://127.0.0.1:9/x" in requested(log)


@pytest.mark.parametrize(("count", "most"), [(3, 8), (64, 20)])
def test_it_prints(tmp_path: Path, count: int, most: int) -> None:
    page, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(report.html(values.make(count)), "utf-8")
    browse(page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 2 <= pages <= most
