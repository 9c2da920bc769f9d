"""Headless Chromium for the tests of the pages, as a person would use it.

Without Chromium these tests are skipped with a reason, but never in CI, where they fail instead.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # in a container, as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,900",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
T = TypeVar("T")


@functools.cache
def axe_core() -> str:
    """The script of axe-core, which finds barriers to people with disabilities."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or not package.submodule_search_locations:
        reason = "needs axe-playwright-python, which `make test` installs"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return (Path(package.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")


class Chromium:
    """One browser with a fresh profile, and words for what the tests do with it."""

    def __init__(self, profile: Path, *flags: str, **preferences: object) -> None:
        binary = next(filter(None, map(shutil.which, NAMES)), None)
        driver = shutil.which("chromedriver")
        if binary is None or driver is None:
            reason = "needs Chromium and chromedriver (Debian: chromium, chromium-driver)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
            options.add_argument(flag)
        options.add_experimental_option("prefs", preferences)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        # of themselves they wait five minutes for a page, and without end for a driver that hangs
        self.driver.set_page_load_timeout(30)
        self.driver.command_executor.client_config.timeout = 60  # type: ignore[union-attr]
        # Not every headless window has the focus, and without it pages get no events of it.
        self.command("Emulation.setFocusEmulationEnabled", enabled=True)

    def open(self, url: str) -> None:
        self.driver.get(url)

    def quit(self) -> None:
        self.driver.quit()

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The element, as soon as there is exactly one that can be seen (or any file input)."""

        def found() -> WebElement | None:
            seen = [e for e in self.all(selector) if e.is_displayed() or selector == "#image"]
            return seen[0] if len(seen) == 1 else None

        return self.wait(found, f"no single {selector} to be seen")

    def texts(self, selector: str) -> list[str]:
        """The texts of all such elements, as they stand in the page, not as CSS shows them."""
        return list(
            self.run(
                "const all = document.querySelectorAll(arguments[0]);"
                "return [...all].map((element) => element.textContent.trim())",
                selector,
            )
        )

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def command(self, name: str, **arguments: object) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def wait(self, condition: Callable[[], T | None], message: str = "", seconds: float = 15) -> T:
        """Ask often until the condition holds."""
        until = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except StaleElementReferenceException:
                pass  # the page changed meanwhile
            assert time.monotonic() < until, f"{message or 'not so'} after {seconds} s"
            time.sleep(0.02)

    def wait_texts(self, selector: str, wanted: list[str], seconds: float = 15) -> None:
        """Until the texts of all such elements are these."""
        until = time.monotonic() + seconds
        while (texts := self.texts(selector)) != wanted:
            assert time.monotonic() < until, f"{selector}: {texts}, not {wanted}"
            time.sleep(0.02)

    def complaints(self, *expected: str) -> list[str]:
        """What the browser complains of, such as breaches of the policy, less what is expected."""
        lines = [line["message"] for line in self.driver.get_log("browser")]
        return [line for line in lines if not any(part in line for part in expected)]

    def set_colours(self, scheme: str) -> None:
        """Show pages in light, dark or forced colours (as of a high-contrast theme)."""
        features = {
            "prefers-color-scheme": "dark" if scheme == "dark" else "light",
            "forced-colors": "active" if scheme == "forced" else "none",
        }
        self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": name, "value": value} for name, value in features.items()],
        )

    def barriers(self) -> list[str]:
        """What axe-core finds on the page: rule, element, and what is wrong with it."""
        self.run(axe_core())
        self.wait(
            lambda: self.run(
                "return document.getAnimations().every((each) => each.playState !== 'running'"
                " || each.effect.getTiming().iterations === Infinity)"
            ),
            "animations do not end",
        )
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((all) => done(all.violations.flatMap("
            "(rule) => rule.nodes.map((node) => [rule.id, node.target, node.failureSummary]))))"
        )
        return [" ".join(map(str, each)) for each in found]

    def set_width(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return bool(self.run("return document.documentElement.scrollWidth > innerWidth"))
