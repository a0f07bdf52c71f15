from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from dgbench.leaderboard import page
from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.tabs import tabs
from tests import boards, browsing
from tests.leaderboard.submitted_runs import Json, make_runs, submit


@pytest.fixture(scope="session")
def embedded_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of erm that complete the suite `embedded`; made-up numbers, never changed."""
    return make_runs(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def submission(embedded_runs: Path) -> Json:
    """The valid submission of those runs; never changed."""
    return submit(embedded_runs)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """A valid submission of a few runs, to no suite; never changed."""
    runs = make_runs(
        tmp_path_factory.mktemp("small"), datasets=["digits_color", "digits_rot"], test=[[0], [1]], trials=[0, 1]
    )
    return submit(runs, suite=None)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    made = browsing.start(tmp_path_factory.mktemp("profile"))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of made-up submissions."""
    said = boards.many() | {
        "half.json": boards.submission("half", boards.values(0.9, 50, ("digits_rot",)), suite=None),
        "long.json": boards.submission("long", boards.values(0.9, 51), suite=None, changes={"protocol.num_steps": 9}),
    }
    out = tmp_path_factory.mktemp("site")
    page.write(tabs(entries(said)), {name: one.model_dump_json().encode() for name, one in said.items()}, out)
    return out


@pytest.fixture
def window(driver: Chrome, site: Path) -> Iterator[browsing.Window]:
    """That page in a browser; fails a test after which the console has said or the page has asked for anything."""
    made = browsing.Window(driver, (site / "index.html").as_uri())
    made.open()
    made.script("localStorage.clear()")
    made.open()
    yield made
    assert made.complaints == []
    asked = made.requests
    assert {made.address, made.address.replace("index.html", "board.js")} <= asked
    assert not {address for address in asked if not address.startswith(site.as_uri())}
