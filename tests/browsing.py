"""Chromium without a window, and a page as a reader sees it there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = "/usr/bin/chromium"
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
# What the browser shows of its own before it is sent anywhere.
OWN = ("about:", "chrome:", "data:")
SHOWN = """
const found = [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility());
return arguments[1] ? found.map((one) => one.innerText) : found;
"""


def browser() -> str:
    """Where Chromium is. Without one a test skips; with DGBENCH_BROWSER set it must not."""
    path = os.environ.get("DGBENCH_BROWSER", CHROMIUM)
    if Path(path).is_file() and shutil.which("chromedriver"):
        return path
    sentence = f"There is no {path} with chromedriver. Install Debian's chromium and chromium-driver"
    if "DGBENCH_BROWSER" in os.environ:
        pytest.fail(f"{sentence}, or unset DGBENCH_BROWSER.")
    pytest.skip(f"{sentence}.")


def start(profile: Path) -> webdriver.Chrome:
    """Chromium with a profile of its own, that notes what it logs and what it asks for."""
    options = webdriver.ChromeOptions()
    options.binary_location = browser()
    for switch in (*SWITCHES, f"--user-data-dir={profile}", "about:blank"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


class Window:
    """A page as a reader sees it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address
        self.command("Emulation.clearDeviceMetricsOverride")
        self.prefer("light")
        for kind in ("browser", "performance"):
            driver.get_log(kind)

    def command(self, name: str, **options) -> None:
        self.driver.execute_cdp_cmd(name, options)

    def prefer(self, scheme: str) -> None:
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def open(self, fragment: str = "") -> None:
        # From elsewhere, as another fragment alone would load nothing.
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)

    def script(self, text: str, *arguments):
        return self.driver.execute_script(text, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.script(SHOWN, selector, False)

    def one(self, selector: str) -> WebElement:
        (found,) = self.all(selector)
        return found

    def texts(self, selector: str) -> list[str]:
        return self.script(SHOWN, selector, True)

    @property
    def title(self) -> str:
        return self.one("h2").text

    @property
    def methods(self) -> list[str]:
        return self.texts("button.toggle")

    def heading(self, text: str) -> WebElement:
        names = "table.standings > thead button"
        return self.all(names)[self.texts(names).index(text)]

    def column(self, place: int) -> list[str]:
        return [text.split("\n")[0] for text in self.texts(f"tr.entry > :nth-child({place})")]

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    @property
    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self) -> set[str]:
        """Addresses asked for since the last look."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return {address for address in sent if not address.startswith(OWN)}
