"""The page in headless Chromium: by keyboard, in light and dark, on a phone, without its script."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Keys

from tests import boards, browsing

CONTRASTS = Path(__file__).with_name("contrasts.js").read_text("utf-8")


def test_keyboard_is_enough(window):
    window.press(Keys.TAB)
    assert window.focused.text == "Skip to the table"
    seen: list[str] = []
    while not seen or seen[-1] != "sam":
        window.press(Keys.TAB)
        seen.append(window.focused.text.split("\n")[0])
        assert window.script("return getComputedStyle(document.activeElement).outlineStyle") != "none", seen
    assert seen[:3] == ["Dark", "embedded", "digits_rot"]
    assert {"Rank", "Method", "Average", "vs erm", "Worst domain", "digits_style"} <= set(seen)
    window.press(Keys.ENTER)
    assert window.texts("tr.detail caption") == list(boards.DOMAINS)
    window.press(Keys.SPACE)
    assert window.all("tr.detail") == []
    window.script("arguments[0].focus()", window.heading("Average"))
    before = window.methods
    window.press(Keys.ENTER, Keys.ENTER)
    assert window.methods == [*before[-2::-1], before[-1]]
    window.script("arguments[0].focus()", window.one("nav a[data-tab=dataset-digits_color]"))
    window.press(Keys.ENTER)
    assert window.title.startswith("digits_color: ")
    window.script("arguments[0].focus()", window.one("#criterion"))
    window.press(Keys.ARROW_DOWN)
    assert window.title == "digits_color: accuracy in %, selected by oracle"


def test_skipping_to_the_table_keeps_the_board(window):
    window.open("#dataset-digits_rot-1-oracle")
    title = "digits_rot: accuracy in %, selected by oracle"
    assert window.title == title
    window.script("document.querySelector('a.skip').focus()")
    assert window.focused.text == "Skip to the table"
    window.press(Keys.ENTER)
    assert window.script("return location.hash") == "#boards"
    assert window.title == title
    window.press(Keys.TAB)
    assert window.script("return document.activeElement.closest('section.board').id") == "dataset-digits_rot-1-oracle"


def test_light_and_dark(window):
    back = "return getComputedStyle(document.documentElement).backgroundColor"
    assert window.script(back) == "rgb(255, 255, 255)"
    window.prefer("dark")
    dark = window.script(back)
    assert dark != "rgb(255, 255, 255)"
    assert window.one("#theme").text == "Light"
    window.one("#theme").click()
    assert window.script(back) == "rgb(255, 255, 255)"
    window.open()
    assert window.script(back) == "rgb(255, 255, 255)"
    window.one("#theme").click()
    window.prefer("light")
    assert window.script(back) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(window, scheme):
    window.prefer(scheme)
    window.all("button.toggle")[0].click()
    window.one("summary").click()
    found = window.script(CONTRASTS)
    assert len(found) >= 5
    assert [pair for pair in found if pair[0] < 4.5] == []


def test_fits_a_phone(window):
    window.resize(390, 844)
    window.all("button.toggle")[0].click()
    widths = "return [document.documentElement.scrollWidth, innerWidth]"
    assert window.script(widths) == [390, 390]
    scroller = window.one("section.current > .scroll")
    window.script("arguments[0].scrollLeft = 300", scroller)
    assert window.script("return arguments[0].scrollLeft", scroller) == 300
    left = window.script("return arguments[0].getBoundingClientRect().left", window.all("th.method")[1])
    assert 0 <= left < 30
    # The line below a row goes on under the cell that stays: collapsed borders scroll away from it.
    style = "const of = getComputedStyle(arguments[0]); return [of.borderBottomWidth, of.borderCollapse]"
    assert window.script(style, window.all("tr.entry > th.method")[0]) == ["1px", "separate"]


def test_reads_without_the_script(window):
    window.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        window.open()
        number = window.script("return document.querySelectorAll('section.board').length")
        assert len(window.all("section.board")) == number > 8
        assert len(window.all("tr.detail")) > 100
        assert window.all("#controls, #theme") == []
    finally:
        window.command("Emulation.setScriptExecutionDisabled", value=False)


def test_a_browser_is_demanded_where_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DGBENCH_BROWSER", str(tmp_path / "none"))
    with pytest.raises(
        pytest.fail.Exception, match=r"There is no .*none with chromedriver. .* or unset DGBENCH_BROWSER"
    ):
        browsing.browser()
    monkeypatch.delenv("DGBENCH_BROWSER")
    monkeypatch.setattr(browsing, "CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(pytest.skip.Exception, match="Install Debian's chromium and chromium-driver"):
        browsing.browser()
