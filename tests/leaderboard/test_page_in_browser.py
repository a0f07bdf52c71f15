"""The page in headless Chromium, opened as a file, as a reader uses it. The fixture asserts that nothing else is asked
for, and that the console is silent.
"""

from __future__ import annotations

import json

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.support.ui import Select

from dgbench.leaderboard import page
from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.tabs import tabs
from tests import boards, browsing


def test_sorts(window):
    ranked = [name for name, _ in sorted(boards.METHODS.items(), key=lambda pair: -pair[1])]
    assert window.methods[0] in ranked[:3]
    assert window.methods[-1] == "half"
    by_rank = window.methods
    window.heading("Average").click()
    assert window.methods == by_rank
    window.heading("Average").click()
    # What has no average stays below.
    assert window.methods == [*by_rank[-2::-1], "half"]
    window.heading("Method").click()
    assert window.methods == sorted(by_rank)
    assert [one.get_attribute("aria-sort") for one in window.all("table.standings > thead th")][:2] == [
        None,
        "ascending",
    ]
    window.heading("digits_rot").click()
    found = [float(text.split(" ")[0]) for text in window.column(6)]
    assert found == sorted(found, reverse=True)
    assert window.methods[0] == "half"


def test_filters(window):
    field = window.one("#filter")
    field.send_keys("dr")
    assert window.methods == ["group_dro"]
    assert window.one("#count").text == "1 of 13 methods"
    field.send_keys("nothing")
    assert window.methods == []
    assert window.one("p.none").text == "No method fits the filter."
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert len(window.methods) == 13


def test_switches_criterion_and_protocol(window):
    averages = window.column(3)
    Select(window.one("#criterion")).select_by_value("oracle")
    assert window.title == "embedded: accuracy in %, selected by oracle"
    assert window.column(3) != averages
    window.one("nav a[data-tab=dataset-digits_rot]").click()
    assert window.title == "digits_rot: accuracy in %, selected by oracle"
    Select(window.one("#setting")).select_by_visible_text("dgbench, 9 steps, mlp")
    assert window.methods == ["long"]
    assert Select(window.one("#criterion")).first_selected_option.text == "oracle"
    window.driver.back()
    window.driver.back()
    assert window.title == "embedded: accuracy in %, selected by oracle"


def test_an_address_names_a_board(window):
    window.open("#dataset-digits_color-1-oracle")
    assert window.title == "digits_color: accuracy in %, selected by oracle"
    assert window.one("nav a[aria-current]").text == "digits_color"
    assert window.script("return scrollY") == 0


@pytest.mark.parametrize("fragment", ["#%", "#%E0%A4%A", "#nothing", "#boards", "#", "#suite-embedded-1"])
def test_an_address_that_names_no_board_shows_the_first(window, fragment):
    window.open(fragment)
    assert window.title == "embedded: accuracy in %, selected by train_validation"
    assert len(window.methods) == 13


def test_a_suite_without_submissions_is_not_what_one_sees_first(driver, tmp_path):
    said = {"erm.json": boards.submission("erm", boards.values(0.8, 0, ("digits_rot",)), suite=None)}
    page.write(tabs(entries(said)), {"erm.json": b"{}"}, tmp_path)
    window = browsing.Window(driver, (tmp_path / "index.html").as_uri())
    window.open()
    assert window.title == "digits_rot: accuracy in %, selected by train_validation"
    window.one("nav a[data-tab=suite-embedded-1]").click()
    assert window.title == "embedded"


def test_going_back_to_the_bare_address_shows_the_first_board(window):
    window.one("nav a[data-tab=dataset-digits_rot]").click()
    assert window.title.startswith("digits_rot: ")
    window.driver.back()
    assert window.title.startswith("embedded: ")


def test_opens_the_drill_down(window):
    assert window.all("tr.detail") == []
    window.all("button.toggle")[1].click()
    assert window.texts("tr.detail caption") == list(boards.DOMAINS)
    assert window.texts("tr.detail thead")[0].split() == ["Trial", *boards.DOMAINS["digits_rot"], "Average"]
    window.all("button.toggle")[1].click()
    assert window.all("tr.detail") == []


def test_follows_a_link_to_a_submission(window, site):
    (link, *_) = [one for one in window.all("tr.entry a") if one.accessible_name == "Submission of fishr"]
    link.click()
    assert window.driver.current_url == (site / "submissions" / "fishr.json").as_uri()
    assert json.loads(window.one("pre").text) == json.loads((site / "submissions" / "fishr.json").read_text())


def test_the_policy_stops_what_would_be_inline(window):
    window.script("document.querySelector('h1').innerHTML = '<b onclick=\"document.title = 1\">x</b>'")
    window.one("h1 b").click()
    assert window.script("return document.title") == "dgbench leaderboard"
    (complaint,) = window.complaints
    assert "Content Security Policy" in complaint
