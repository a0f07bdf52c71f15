"""The page as a file: what it holds, what it may load, that the same submissions give the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dgbench import cli
from dgbench.leaderboard import page
from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.tabs import tabs
from tests import boards
from tests.leaderboard.submitted_runs import Json, changed, put

ALLOWED = re.compile(r"#[a-z0-9_-]+|submissions/[a-z0-9_.-]+\.json|https://[!-~]+|board\.css")
HOSTILE = "</script><script src='https://evil.example/x.js'></script><img src=x onerror=\"alert(1)\">&amp;"


class Reader(HTMLParser):
    """Collects a page's tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def html(said=None) -> str:
    said = boards.many() if said is None else said
    return page.html(tabs(entries(said)), len(said))


@pytest.fixture(scope="module")
def whole() -> Reader:
    others = {"only.json": boards.submission("only", boards.values(0.7, 3, ("digits_rot",)), suite=None)}
    linked = boards.submission(
        "linked", boards.values(0.7, 4), paper="https://arxiv.org/abs/1?a=1&b=2", contact="https://example.org/me"
    )
    return Reader(html(boards.many() | others | {"linked.json": linked}))


def test_policy_allows_nothing_but_the_page_s_own_files(whole):
    (policy,) = [tag["content"] for _, tag in whole.tags if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'"
    names = [tag for tag, _ in whole.tags]
    assert names.index("meta") < min(names.index("script"), names.index("link"))


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(whole):
    assert [tag for tag, _ in whole.tags].count("style") == 0
    assert [attributes for tag, attributes in whole.tags if tag == "script"] == [{"src": "board.js"}]
    names = {name for _, attributes in whole.tags for name in attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}
    assert [attributes["href"] for tag, attributes in whole.tags if tag == "link"] == ["board.css"]
    assert set(whole.values("src")) == {"board.js"}
    assert all(ALLOWED.fullmatch(address) for address in whole.values("href"))
    assert not {"img", "iframe", "object", "embed", "base", "video", "audio"} & {tag for tag, _ in whole.tags}
    for asset in page.ASSETS:
        text = (page.HERE / asset).read_text()
        assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|innerHTML|eval\(|\bimport\b", text), asset


def test_links_lead_to_submissions_papers_and_places_of_the_page(whole):
    links = set(whole.values("href"))
    assert {"submissions/erm.json", "https://arxiv.org/abs/1?a=1&b=2", "https://example.org/me"} <= links
    ids = whole.values("id")
    assert len(ids) == len(set(ids))
    referred = [*whole.values("aria-controls"), *whole.values("aria-labelledby")]
    assert {*referred, *(link[1:] for link in links if link.startswith("#"))} <= set(ids)


def test_what_is_hostile_is_only_text():
    """A schema refuses such words; the page does not rely on that."""
    said = boards.submission("erm", boards.values(0.8, 0))
    fields = {"name": HOSTILE, "summary": HOSTILE, "algorithm": HOSTILE, "paper": "javascript:alert(1)"}
    evil = said.model_copy(update={"method": said.method.model_copy(update=fields), "contact": HOSTILE})
    evil = evil.model_copy(update={"datasets": [said.datasets[0].model_copy(update={"regime": HOSTILE})]})
    made = Reader(html({"evil.json": evil}))
    assert HOSTILE in made.text
    assert [attributes for tag, attributes in made.tags if tag == "script"] == [{"src": "board.js"}]
    assert not [tag for tag, _ in made.tags if tag == "img"]
    assert not made.values("onerror")
    assert all(ALLOWED.fullmatch(address) for address in made.values("href"))
    assert "javascript:alert(1)" in made.text


def test_every_number_is_readable_without_the_script(whole):
    text = " ".join("".join(whole.text).split())
    row = "sam 74.2 ±0.3 ▲ +1.7"
    assert row in text.replace("1 1–2 ", "")
    assert "hidden" not in {
        n for tag, attributes in whole.tags if tag in ("tr", "tbody", "section") for n in attributes
    }
    assert "Lacks digits_color, digits_style, texture_patches under this setting." in text


def test_the_same_submissions_give_the_same_bytes(tmp_path):
    said = boards.many()
    files = {name: one.model_dump_json().encode() for name, one in said.items()}
    for order, folder in ((1, "a"), (-1, "b")):
        some = dict(list(said.items())[::order])
        page.write(tabs(entries(some)), dict(list(files.items())[::order]), tmp_path / folder)
    contents = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"index.html", *page.ASSETS, *(f"submissions/{name}" for name in said)}
    assert contents[0]["submissions/erm.json"] == files["erm.json"]


def test_what_an_earlier_page_left_is_taken_away(tmp_path):
    said = boards.many()
    files = {name: one.model_dump_json().encode() for name, one in said.items()}
    copies, out = tmp_path / "a" / "submissions", tmp_path / "a"
    page.write(tabs(entries(said)), files, out)
    assert {path.name for path in copies.iterdir()} == said.keys()
    (copies / "notes.txt").write_text("mine")
    (copies / "old.json").mkdir()
    fewer = {name: one for name, one in said.items() if name != "vrex.json"}
    page.write(tabs(entries(fewer)), {name: files[name] for name in fewer}, out)
    assert {path.name for path in copies.iterdir()} == {*fewer, "notes.txt", "old.json"}
    # But not where no page is: the folder may be one that others are read from.
    (out / "index.html").unlink()
    (copies / "vrex.json").write_bytes(files["vrex.json"])
    page.write(tabs(entries(fewer)), {name: files[name] for name in fewer}, out)
    assert (copies / "vrex.json").exists()


def test_one_value_takes_a_bounded_part_of_the_page():
    """A schema bounds lists; the page does not rely on that."""
    said = boards.submission("erm", boards.values(0.8, 0))
    usual = len(html({"erm.json": said}))
    hparams = said.hparams[0].model_copy(update={"algorithm": {"a": [0.5] * 100_000, "b": "x" * 100_000}})
    network = {**said.datasets[0].network, "a": "y" * 100_000}
    data = [one.model_copy(update={"network": network}) for one in said.datasets]
    made = html({"erm.json": said.model_copy(update={"hparams": [hparams], "datasets": data})})
    number = made.count('<section class="board"')
    assert len(made) < usual + number * 10_000


def test_an_empty_board_says_how_to_begin():
    text = "".join(Reader(html({})).text)
    assert "No submissions yet." in text
    assert "dgbench submit RUNS --method NAME --contact YOU --suite embedded" in text


@pytest.fixture
def run(monkeypatch):
    def run(*words: str) -> object:
        monkeypatch.setattr(sys, "argv", ["dgbench", "leaderboard", "build", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


@pytest.fixture
def folder(tmp_path: Path, small: Json) -> Path:
    made = tmp_path / "submissions"
    made.mkdir()
    (made / "erm.json").write_text(json.dumps(small))
    return made


def test_command_builds_from_valid_files(run, folder, tmp_path, capsys):
    assert run("--submissions", str(folder), "--out", str(tmp_path / "site")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'site' / 'index.html'}: the page of 1 submission.\n"
    made = Reader((tmp_path / "site" / "index.html").read_text())
    assert (tmp_path / "site" / "submissions" / "erm.json").read_bytes() == (folder / "erm.json").read_bytes()
    tabs_of = {tag["data-tab"] for name, tag in made.tags if name == "a" and "data-tab" in tag}
    assert tabs_of == {"suite-embedded-1", "dataset-digits_color", "dataset-digits_rot"}


def test_command_refuses_what_is_not_valid(run, folder, tmp_path, capsys, small):
    (folder / "bad.json").write_text(json.dumps(changed(small, put("aggregates", 0, "mean", to=0.999))))
    assert run("--submissions", str(folder), "--out", str(tmp_path / "site")) == 1
    said = capsys.readouterr().err
    assert re.search(r"bad.json is no valid submission: \$.* Mend it or take it away.", said, re.S)
    assert not (tmp_path / "site").exists()
    shutil.rmtree(folder)
    assert run("--submissions", str(folder)) == 1
    assert f"There is no folder {folder}. Name the one" in capsys.readouterr().err
