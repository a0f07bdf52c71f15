"""The regressions on files of the UCI repository, small or made up."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dgbench.dataset import MissingData
from dgbench.registry import UnknownName, datasets

FILES = {
    "airfoil": "airfoil_self_noise.dat",
    "skillcraft": "SkillCraft1_Dataset.csv",
    "crime": "communities.data",
}
STATES = [int(name.removeprefix("state_")) for name in datasets["crime"].card.domains]


def texts(table: np.ndarray) -> list[list[str]]:
    return [["?" if np.isnan(value) else repr(float(value)) for value in row] for row in table]


def tables() -> dict[str, np.ndarray]:
    """Numbers as the files hold them, with gaps; three rows of each league, two of each state."""
    rng = np.random.default_rng(0)
    made = {"airfoil": rng.random((1503, 6)), "skillcraft": rng.random((24, 20)), "crime": rng.random((92, 128))}
    made["skillcraft"][:, 1] = np.tile(np.arange(1, 9), 3)
    made["skillcraft"][21:, 2] = np.nan
    made["crime"][:, 0] = np.repeat(STATES[::-1], 2)
    made["crime"][1::2, [1, 2, 105]] = np.nan
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A data_dir with the three files."""
    write_files(tmp_path / "uci")
    return tmp_path


def write_files(home: Path) -> None:
    made = tables()
    home.mkdir()
    lines = {name: [",".join(row) for row in texts(table)] for name, table in made.items()}
    lines["airfoil"] = [line.replace(",", "\t") for line in lines["airfoil"]]
    # As some copies have it.
    lines["skillcraft"] = [
        line.replace("?", '"?"') for line in ["GameID,LeagueIndex" + ",x" * 18, *lines["skillcraft"]]
    ]
    parts = [line.split(",", 4) for line in lines["crime"]]
    lines["crime"] = [",".join([*part[:3], "Townville", part[4]]) for part in parts]
    for name, file in FILES.items():
        (home / file).write_text("\n".join(lines[name]) + "\n")


def by_hand(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Column by column: gaps get the mean of the known values in some rows, whose range becomes [0, 1]."""
    columns = []
    for column in x.T:
        known = [value for value in column[rows] if not np.isnan(value)]
        mean, low, high = sum(known) / len(known), min(known), max(known)
        filled = [mean if np.isnan(value) else value for value in column]
        columns.append([(value - low) / (high - low) for value in filled])
    return np.array(columns).T


@pytest.mark.parametrize("scaling", ["train", "all"])
def test_airfoil_is_shuffled_cut_and_scaled_by_its_training_rows(scaling, files):
    dataset = datasets["airfoil"](files, data_seed=3, scaling=scaling)
    table = tables()["airfoil"][np.random.default_rng(3).permutation(1503)]
    rows = np.arange(1003 if scaling == "train" else 1503)
    (domain,) = dataset.domains
    np.testing.assert_allclose(domain.inputs.numpy(), by_hand(table[:, :5], rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(domain.targets[:, 0].numpy(), table[:, 5], rtol=1e-6)
    parts = {split: found["tunnel"].tolist() for split, found in dataset.splits.items()}
    assert parts == {"in": [*range(1003)], "val": [*range(1003, 1303)], "test": [*range(1303, 1503)]}
    assert dataset.designated == (("tunnel",), ("tunnel",))
    assert dataset.options.target_scale == "standard"


@pytest.mark.parametrize("scaling", ["train", "all"])
@pytest.mark.parametrize(
    ("name", "group", "used", "target", "last_training"),
    [
        ("skillcraft", 1, [*range(2, 13), *range(14, 20)], 13, 4),
        ("crime", 0, [*range(5, 127)], 127, 39),
    ],
)
def test_groups_of_rows_are_domains(name, group, used, target, last_training, scaling, files):
    dataset, table = datasets[name](files, scaling=scaling), tables()[name]
    rows = table[:, group] <= last_training if scaling == "train" else np.full(len(table), True)
    x = by_hand(table[:, used], rows)
    numbers = sorted(set(table[:, group]))
    assert len(dataset.domains) == len(numbers)
    assert dataset.input_shape == (len(used),)
    for domain, number in zip(dataset.domains, numbers, strict=True):
        mine = table[:, group] == number
        np.testing.assert_allclose(domain.inputs.numpy(), x[mine], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(domain.targets[:, 0].numpy(), table[mine, target], rtol=1e-6)


@pytest.mark.parametrize(("name", "counts"), [("skillcraft", (4, 1, 3)), ("crime", (31, 6, 9))])
def test_whole_domains_train_validate_and_test(name, counts, files):
    dataset = datasets[name](files)
    names, (train, test) = dataset.domain_names, dataset.designated
    num_train, num_val, num_test = counts
    assert (train, test) == (names[:num_train], names[-num_test:])
    assert len(names) == num_train + num_val + num_test
    assert list(dataset.splits["in"]) == list(names[:-num_test])
    assert list(dataset.splits["test"]) == list(test)
    for domain in dataset.domains:
        split = "test" if domain.name in test else "in"
        assert dataset.splits[split][domain.name].tolist() == list(range(len(domain)))


def cut(sizes: list[int]) -> tuple[int, int]:
    """Where the authors end training and validation, by the sizes of the domains in order."""
    reached = np.cumsum(sizes)
    first = int(np.argmax(reached >= int(0.7 * reached[-1])))
    return first, int(np.argmax(reached >= reached[first] + int(0.1 * reached[-1])))


@pytest.mark.parametrize(("name", "rows"), [("skillcraft", (1878, 806, 711)), ("crime", (1390, 231, 373))])
def test_the_cards_splits_are_the_authors(name, rows):
    card = datasets[name].card
    end, val_end = cut(list(card.sizes))
    assert (card.train_domains, card.test_domains) == (card.domains[:end], card.domains[val_end:])
    assert rows == (sum(card.sizes[:end]), sum(card.sizes[end:val_end]), sum(card.sizes[val_end:]))


def test_quotes_and_line_ends_change_nothing(files):
    path = files / "uci" / FILES["skillcraft"]
    before = datasets["skillcraft"](files)
    path.write_bytes(path.read_bytes().replace(b'"', b"").replace(b"\n", b"\r\n"))
    after = datasets["skillcraft"](files.parent, root=str(files / "uci"))
    assert before.fingerprint() == after.fingerprint()
    assert torch.equal(before.domains[7].inputs, after.domains[7].inputs)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_comes_with_the_command_that_gets_it(name, tmp_path):
    path = tmp_path / "uci" / FILES[name]
    with pytest.raises(MissingData) as raised:
        datasets[name](tmp_path)
    assert f"looked for {path}, which is not a file. Set dataset.root" in str(raised.value)
    assert f"curl --create-dirs -L -o {path} {datasets[name].card.source}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "line", "text"),
    [
        ("airfoil", "1\t2\t3\t4\t5\t6", r"dat has 1504 rows, expected 1503\. Get the file anew, from https"),
        ("airfoil", "1\t2", r"Line 1504 of .*dat cannot be read \(2 values\), expected 6 numbers or '\?'\. Get"),
        ("skillcraft", ",".join("x" * 20), r"Line 26 of .*csv cannot be read \(.*'x'\), expected 20 numbers"),
        ("skillcraft", ",".join("9" * 20), r"has rows of the groups 1, .* 8, 9, expected 1, 2, 3, 4, 5, 6, 7, 8\. "),
    ],
)
def test_another_file_is_refused(name, line, text, files):
    with (files / "uci" / FILES[name]).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=text):
        datasets[name](files)


def test_an_unknown_scaling_is_refused(files):
    with pytest.raises(UnknownName, match="scaling"):
        datasets["crime"](files, scaling="test")


@pytest.mark.parametrize("name", FILES)
def test_real_data_fit_the_card(name, data_dir):
    dataset = datasets[name](data_dir)
    assert dataset.domain_names == dataset.card.domains
    assert tuple(map(len, dataset.domains)) == dataset.card.sizes
    (path,) = dataset.sources()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == dataset.card.checksums[path.name]
    inside = [
        domain.inputs[dataset.splits["in"][domain.name]] for domain in dataset.domains[: len(dataset.designated[0])]
    ]
    x = torch.cat(inside)
    assert x.amin(0).tolist() == [0] * dataset.input_shape[0]
    assert x.amax(0).tolist() == [1] * dataset.input_shape[0]
