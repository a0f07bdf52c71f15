"""Texts, names and lists of a submission, each one change away from a valid file: what is fit and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgbench.leaderboard.fields import MAX_ITEMS, MAX_MARKS, MAX_NAMES
from tests.leaderboard.submitted_runs import Json, changed, judge, put, refused

LABEL = "$.method.label: got {}, expected a name of letters a-z and A-Z, digits, '+' and single ' ', "
TAKEN = "$.method.label: got {}, which can be taken for the algorithm {}, expected a name of its own. Give the runs an"
HEADING = "$.method.label: got {}, which can be taken for a heading of the tables, expected a name of its own."
LABELS = {
    "erm + ema": LABEL,
    "erm +ema": LABEL,
    "erm+ ema": LABEL,
    "erm (tuned)": LABEL,
    "erm (published)": LABEL,
    "www.evil.example": LABEL,
    "see WWW.evil.example": LABEL,
    "https://evil.example": LABEL,
    "me@evil.example": LABEL,
    "erm+EMA": TAKEN,
    "vrex+swad:2": TAKEN,
    "erm": TAKEN,
    "E-R-M": TAKEN,
    "Average": HEADING,
    "worst.domain": HEADING,
    "rank": HEADING,
}
FIT_LABELS = ("ERM++", "ERM 2.0", "vrex+mixup", "averaged", "erm_ema")


def labelled(said: Json, label: str) -> Json:
    return changed(said, lambda made: made["method"].update(name=label, label=label))


@pytest.mark.parametrize("label", LABELS)
def test_a_label_imitates_neither_a_row_nor_a_link(label, small: Json, tmp_path: Path):
    assert judge(tmp_path, labelled(small, "mine")).problems == ()
    expected = LABELS[label].format(f"'{label}'", "vrex" if label.startswith("vrex") else "erm")
    problems = [one for one in judge(tmp_path, labelled(small, label)).problems if one.startswith("$.method.label")]
    assert [one.startswith(expected) for one in problems] == [True]
    assert "Give the runs another label." in problems[0]


@pytest.mark.parametrize("label", FIT_LABELS)
def test_a_label_of_its_own_is_fit(label, small: Json, tmp_path: Path):
    assert judge(tmp_path, labelled(small, label)).problems == ()


CONTACTS = {
    "https://mastodon.social/@x": True,
    "https://h:443/x": True,
    "o'brien@x.org": True,
    "https://example.org": True,
    "https://-": False,
    "https://..": False,
    "https://a..b": False,
    "https://a-.b/x": False,
    "https://h:port": False,
    "x@-.org": False,
    "x@org": False,
    "https://a.org/'x": False,
}


@pytest.mark.parametrize("contact", CONTACTS)
def test_contacts(contact, small: Json, tmp_path: Path):
    problems = judge(tmp_path, changed(small, put("contact", to=contact))).problems
    expected = f"$.contact: got {contact!a}, expected an e-mail address or an https address, at most 120 characters."
    assert [problem.startswith(expected) for problem in problems] == ([] if CONTACTS[contact] else [True])


SUMMARIES = {
    "R&D's caf\u00e9, \u65b9\u6cd5 \U0001f600": True,
    "e" + "\u0301" * MAX_MARKS: True,
    "e" + "\u0301" * (MAX_MARKS + 1): False,
    "e" + "\u0301" * 150: False,
    "a\u3164b": False,
    "\u115f": False,
    "a\u034fb": False,
    "\u2800": False,
    "a\ufe0f": False,
}


@pytest.mark.parametrize("summary", SUMMARIES, ids=ascii)
def test_summaries_are_seen(summary, small: Json, tmp_path: Path):
    problems = judge(tmp_path, changed(small, put("method", "summary", to=summary))).problems
    expected = f"expected characters that can be seen, with at most {MAX_MARKS} accents on each. Give another by --summ"
    assert [expected in problem for problem in problems] == ([] if SUMMARIES[summary] else [True])


def test_links_may_hold_what_addresses_hold(small: Json, tmp_path: Path):
    for link, is_fit in (("https://medium.com/@x:1?a=(b)", True), ("https://h.org:8/x", True), ("https://-.-", False)):
        problems = judge(tmp_path, changed(small, put("method", "code", to=link))).problems
        assert (not problems) == is_fit, link


LISTS = {
    "long list": (
        put("hparams", 0, "algorithm", to={"a": [1.5] * (MAX_ITEMS + 1)}),
        f"$.hparams[0].algorithm.a: got a list of {MAX_ITEMS + 1}, expected true, false, null, a number, short plain "
        f"text or a list of at most {MAX_ITEMS} such.",
    ),
    "many hyper-parameters": (
        put("hparams", 0, "algorithm", to={f"a{i}": 1 for i in range(MAX_NAMES + 1)}),
        f"$.hparams[0].algorithm: got an object of {MAX_NAMES + 1}, expected at most {MAX_NAMES} names.",
    ),
    "many options": (
        put("datasets", 0, "network", to={f"a{i}": 1 for i in range(MAX_NAMES + 1)}),
        f"$.datasets[0].network: got an object of {MAX_NAMES + 1}, expected at most {MAX_NAMES} names.",
    ),
    "many packages": (
        put("environments", 0, "versions", to={f"a{i}": "1" for i in range(MAX_NAMES + 1)}),
        f"$.environments[0].versions: got an object of {MAX_NAMES + 1}, expected at most {MAX_NAMES} names.",
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_settings_are_few(case, small: Json, tmp_path: Path):
    change, text = LISTS[case]
    assert text in refused(tmp_path, small, change)


def test_a_list_of_numbers_is_a_setting(small: Json, tmp_path: Path):
    said = changed(small, put("hparams", 0, "algorithm", to={"a": [1.5, None, "x"] + [True] * (MAX_ITEMS - 3)}))
    assert judge(tmp_path, json.dumps(said)).problems == ()
