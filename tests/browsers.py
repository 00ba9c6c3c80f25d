"""A real browser for tests of pages: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"]
FLAGS += ["disable-background-networking", "disable-component-update", "disable-sync"]
MISSING = "Chromium and its driver are not installed; on Debian: apt-get install chromium chromium-driver"


@contextmanager
def chromium(folder: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile in `folder`, cut off from every network, in a window of so many pixels.

    Skips the test where there is no Chromium that starts.
    """
    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not browser or not driver:
        pytest.skip(MISSING)
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"user-data-dir={folder}", "host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver, log_output=subprocess.DEVNULL))
    try:
        sized = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sized)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield found
    finally:
        found.quit()
