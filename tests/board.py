"""TensorBoard in a real browser: started on a folder of runs, opened, and looked at."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Debian's name first."""
SECONDS = 60
"""For TensorBoard to start, or for a page to show something; each takes a few."""


def find_browser() -> str | None:
    """Return the path of a browser of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """Serve a folder of runs; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={runs.name}", f"--port={port}"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": runs.parent}
    server = subprocess.Popen([*command, "--host=127.0.0.1", "--load_fast=false"], **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for_runs(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for_runs(address: str) -> None:
    for _ in range(SECONDS * 5):
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if urllib.request.urlopen(f"{address}/data/runs").read().strip() not in (b"", b"[]"):
                return
        time.sleep(0.2)
    raise TimeoutError(f"expected runs at {address}, found none in {SECONDS} s")


@contextlib.contextmanager
def browser(width: int = 1400, height: int = 1000) -> Iterator[Any]:
    """Open a page in a browser of this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, as in a container, Chromium starts without its sandbox only.
        opened = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = opened.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * SECONDS / 3)
        yield page
        opened.close()


def open_tab(page: Any, address: str, tab: str) -> None:
    """Open a dashboard, such as `custom_scalars`, from anew."""
    page.goto("about:blank")
    page.goto(f"{address}/#{tab}")
