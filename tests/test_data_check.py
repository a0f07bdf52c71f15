"""Are the data what the card says: what is counted, what is compared, what is said."""

from __future__ import annotations

import functools
import gzip
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.card_contract import Subject
from dgbench.data_check import check_data, find_subject
from dgbench.dataset import FileOptions, MissingData, TensorDomain
from dgbench.registry import UnknownName, datasets
from dgbench.task import Task
from tests.broken_datasets import Healthy, broken, changed


def report(cls, **how):
    return check_data(Subject(cls, None, {}), **how)


def test_a_healthy_dataset_is_counted():
    said = report(Healthy)
    assert [(row.domain, row.num_examples, row.targets) for row in said.rows] == [
        ("dark", 20, {"no": 10, "yes": 10}),
        ("light", 20, {"no": 10, "yes": 10}),
    ]
    assert said.rows[0].text == "no 10, yes 10"
    assert (said.problems, said.notes) == ([], [])
    assert said.fingerprint == Healthy().fingerprint()


class Regressed(Healthy):
    """Two values, of which the second is ten times the first."""

    card = changed(classes=())

    def make_task(self):
        return Task("regression", 2)

    def load(self):
        for name in self.card.domains:
            y = torch.tensor([[1.0], [2.0], [3.0], [6.0]]) * torch.tensor([1.0, 10.0])
            yield TensorDomain(name, torch.zeros(4, 1), y)


def test_regressed_values_are_described():
    row, _ = report(Regressed).rows
    assert list(row.targets) == [f"y{i} {name}" for i in (0, 1) for name in ("mean", "std", "min", "max")]
    assert list(row.targets.values()) == pytest.approx([3, 3.5**0.5, 1, 6, 30, 350**0.5, 10, 60])
    assert row.text.startswith("y0 mean 3, y0 std 1.871, y0 min 1, y0 max 6, y1 mean 30")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"domains": ("dark", "bright")}, "The domains are dark, light, expected dark, bright. Mend load or the card"),
        ({"sizes": (20, 21)}, "light has 20 examples, expected 21. Mend load or the card"),
    ],
)
def test_what_the_card_says_otherwise_is_a_problem(facts, text):
    (problem,) = report(broken("Other", card=changed(**facts))).problems
    assert problem.startswith(text)


def test_a_class_that_is_missing_or_not_on_the_card_is_a_problem():
    said = report(broken("Third", class_names=("no", "yes", "perhaps"))).problems
    assert said[0].startswith("The classes are no, yes, perhaps, expected no, yes. ")
    assert said[1].startswith("dark has no example of perhaps, expected every class. ")
    excused = changed(defects=("dark and light have no perhaps",), classes=("no", "yes", "perhaps"))
    assert not report(broken("Excused", class_names=excused.classes, card=excused)).problems
    of_files = {"Options": FileOptions, "rng": lambda self: np.random.default_rng(0)}
    said = report(broken("WithFiles", class_names=("no", "yes", "perhaps"), **of_files)).problems
    assert said[1] == "dark has no example of perhaps, expected every class. Get the files anew, from none"


class NotANumber(Healthy):
    def load(self):
        dark, light = super().load()
        light.inputs[3, 0, 1, 1:3] = torch.tensor([torch.inf, torch.nan])
        return dark, light


def test_values_that_are_no_numbers_are_counted():
    assert report(NotANumber).problems == [
        "light has 2 inputs that are infinite or no numbers, expected none. Mend the data."
    ]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_sums_of_sources_are_compared(kind, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("1,2\n")
    right = hashlib.new(kind, b"1,2\n").hexdigest()

    def problems(**sums):
        card = changed(checksums={name.replace("_", "."): said for name, said in sums.items()})
        return report(broken("Pinned", card=card, sources=lambda self: [file])).problems

    assert problems(table_csv=right) == problems(table_csv=right.upper()) == []
    wrong = right[::-1]
    (problem,) = problems(table_csv=wrong)
    assert problem.startswith(f"{file} has the {kind} sum {right}, expected {wrong}. ")
    assert problems(table_csv=right, other_csv=right) == [
        "other.csv is on the card but not among the files that were read, expected it there. Mend the card."
    ]
    assert problems(table_csv="abc") == [
        "The card's sum of table.csv has 3 digits, expected 32 (MD5) or 64 (SHA-256). Mend the card."
    ]


def test_packed_files_are_compared_by_their_content(data_dir, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (data_dir / "MNIST" / "raw").glob("*-ubyte"):
        if "labels" in path.name:
            raw.joinpath(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        else:
            raw.joinpath(path.name).symlink_to(path)
    said = check_data(find_subject("colored_mnist_irm", tmp_path))
    assert (said.problems, said.notes) == ([], [])
    assert said.fingerprint == datasets["colored_mnist_irm"](data_dir).fingerprint()
    labels = raw / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[-1] = (content[-1] + 1) % 10
    labels.write_bytes(gzip.compress(content))
    (problem,) = check_data(find_subject("colored_mnist_irm", tmp_path)).problems
    assert f"{labels} has the md5 sum {hashlib.md5(content).hexdigest()}, expected a25bea73" in problem


def test_only_what_an_option_explains_is_not_compared():
    said = check_data(find_subject("iut_2", "nowhere", ["dataset.num_domains=2", "dataset.num_examples=50"]))
    assert said.problems == []
    assert said.notes == [
        "Domains, classes and sizes were not compared: the card does not describe "
        "dataset.num_domains=2, dataset.num_examples=50."
    ]
    assert check_data(find_subject("digits_color", "nowhere", ["dataset.data_seed=5"])).notes == []


@pytest.fixture
def photos(tmp_path):
    """Two domains of two classes, of which one image is cut short and one is a text."""
    for domain in ("day", "night"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / domain / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((30, 20, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    whole = (tmp_path / "photos" / "day" / "dog" / "1.png").read_bytes()
    (tmp_path / "photos" / "day" / "dog" / "1.png").write_bytes(whole[:-30])
    (tmp_path / "photos" / "night" / "cat" / "2.png").write_text("<html>")
    return tmp_path / "photos"


def test_every_image_is_read_and_the_unreadable_are_named(photos):
    asked = []

    def track(indices, domain):
        asked.append((domain, len(indices)))
        return indices

    subject = find_subject("image_folder", "nowhere", [f"dataset.root={photos}"])
    said = check_data(subject, track=track)
    assert asked == [("day", 6), ("night", 6)]
    assert [problem.split(" cannot be read")[0] for problem in said.problems] == [
        str(photos / "day" / "dog" / "1.png"),
        str(photos / "night" / "cat" / "2.png"),
    ]
    assert said.notes == ["The card pins no checksums: the content of the files was not compared."]
    quick = check_data(subject, quick=True, track=track)
    assert quick.problems == []
    assert quick.notes[-1].startswith("The examples were not decoded: leave --quick out")
    assert len(asked) == 2
    assert quick.fingerprint == datasets["image_folder"](root=str(photos)).fingerprint()


@pytest.mark.parametrize(
    ("name", "overrides", "error", "text"),
    [
        ("pac", [], UnknownName, "'pac' is not a known dataset. Did you mean 'pacs'"),
        ("iut_1", ["dataset.num_domain=3"], UnknownName, "Did you mean 'dataset.num_domains'"),
        ("iut_1", ["dataset.num_domains=x"], ValueError, "dataset.num_domains='x': "),
        ("iut_1", ["data_dir=x"], ValueError, "Got 'data_dir=x', expected an option of the data: dataset.KEY=VALUE"),
    ],
)
def test_what_is_asked_wrongly_is_refused(name, overrides, error, text):
    with pytest.raises(error) as raised:
        find_subject(name, "nowhere", overrides)
    assert text in str(raised.value)


def test_missing_data_are_asked_for(tmp_path):
    with pytest.raises(MissingData, match="PACS was looked for in"):
        check_data(find_subject("pacs", tmp_path))


@pytest.fixture
def command(command):
    """Run `dgbench data check` in this process: exit code, stdout, stderr."""
    return functools.partial(command, "data", "check", width=300)


def test_the_command_prints_a_row_per_domain_and_the_verdict(command, photos):
    code, out, err = command("digits_color")
    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0] == ["domain", "examples", "targets"]
    assert [line[:2] for line in lines[1:4]] == [["plus90", "599"], ["plus80", "599"], ["minus90", "599"]]
    assert lines[4:] == [["fingerprint", datasets["digits_color"]().fingerprint()], ["No", "mismatches."]]
    code, out, _ = command("image_folder", f"dataset.root={photos}")
    assert code == 1
    assert f"  {photos}/day/dog/1.png cannot be read as an image (" in out
    assert out.endswith("2 mismatches.\n")
    assert command("image_folder", f"dataset.root={photos}", "--quick")[0] == 0


def test_the_command_says_where_data_were_looked_for(command, tmp_path):
    code, out, err = command("pacs", "--data-dir", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: PACS was looked for in {tmp_path}/PACS, which is not a folder.")


@pytest.mark.parametrize("name", [n for n in datasets.names() if not issubclass(datasets[n].Options, FileOptions)])
def test_what_needs_no_download_is_as_its_card_says(name):
    subject = find_subject(name, "nowhere")
    said = check_data(subject)
    assert (said.problems, said.notes) == ([], [])
    assert [row.domain for row in said.rows] == list(subject.cls.card.domains)
