"""The sets made of scikit-learn's tables against their files, and against figures of linear models."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dgbench.registry import UnknownName, datasets

NAMES = ("iris_simpson", "wine_cultivar", "breast_cancer_texture", "diabetes_sex_age")
# scikit-learn before 1.8 spells eleven of the numbers in another way.
RESPELT = {"diabetes_data_raw.csv.gz": "a3e94cc7cea00f8a84fa5f6345203913a68efa42df18f87ddf9bead721bfd503"}


def rows_of(name: str) -> list[np.ndarray]:
    """The files of a set as tables of numbers, read without scikit-learn."""
    return [
        np.loadtxt(path) if path.suffix == ".gz" else np.loadtxt(path, delimiter=",", skiprows=1)
        for path in datasets[name]().sources()
    ]


def whole(dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs and targets of all domains one below the other, and the domain of each row."""
    x, y = (np.concatenate([d.resident[i].double().numpy() for d in dataset.domains]) for i in (0, 1))
    return x, y.reshape(len(x)), np.repeat(np.arange(len(dataset.domains)), [len(d) for d in dataset.domains])


def left_out(dataset, make_model):
    """Domain by domain: what a model of the other domains predicts there, and the truth."""
    x, y, domain = whole(dataset)
    for i in range(len(dataset.domains)):
        model = make_model().fit(x[domain != i], y[domain != i])
        yield model.predict(x[domain == i]), y[domain == i]


def ridge():
    """The strength of the penalty is chosen by leave-one-out error on the training domains."""
    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 2, 11)))


def rmse(predicted, y):
    return np.sqrt(np.mean((predicted - y) ** 2))


@pytest.mark.parametrize("name", NAMES)
def test_domains_are_those_of_the_card(name):
    dataset = datasets[name]()
    assert dataset.domain_names == dataset.card.domains
    assert tuple(map(len, dataset.domains)) == dataset.card.sizes
    is_regression = name != "breast_cancer_texture"
    assert dataset.task.kind == ("regression" if is_regression else "classification")
    assert dataset.options.target_scale == ("standard" if is_regression else "none")
    for domain in dataset.domains:
        assert domain.targets.shape == ((len(domain), 1) if is_regression else (len(domain),))
        assert domain.targets.dtype == (torch.float32 if is_regression else torch.int64)
        assert domain.inputs.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_whose_checksums_are_pinned(name):
    dataset = datasets[name]()
    assert {path.name for path in dataset.sources()} == set(dataset.card.checksums)
    for path in dataset.sources():
        known = {dataset.card.checksums[path.name], RESPELT.get(path.name)}
        assert hashlib.sha256(path.read_bytes()).hexdigest() in known


def test_the_fingerprint_is_of_the_values_and_not_of_their_spelling(tmp_path, monkeypatch):
    dataset = datasets["diabetes_sex_age"]()
    before = dataset.fingerprint()
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"5e1"))
    monkeypatch.setattr(type(dataset), "sources", lambda self: (tmp_path / "x.gz",))
    assert dataset.fingerprint() == before
    dataset.domains[2].inputs[3, 1] += 1
    assert dataset.fingerprint() != before


def test_iris_is_sepal_width_from_length_by_species():
    (table,) = rows_of("iris_simpson")  # sepal length, sepal width, petal length, petal width, species
    assert table[0].tolist() == [5.1, 3.5, 1.4, 0.2, 0]
    for i, domain in enumerate(datasets["iris_simpson"]().domains):
        own = table[table[:, 4] == i].astype(np.float32)
        np.testing.assert_array_equal(domain.inputs, own[:, :1])
        np.testing.assert_array_equal(domain.targets, own[:, 1:2])


@pytest.mark.parametrize(("target", "column"), [("color_intensity", 9), ("proline", 12), ("alcohol", 0)])
def test_wine_is_one_column_from_the_twelve_others_by_cultivar(target, column):
    (table,) = rows_of("wine_cultivar")  # 13 properties, cultivar
    dataset = datasets["wine_cultivar"](target=target)
    for i, domain in enumerate(dataset.domains):
        own = table[table[:, 13] == i].astype(np.float32)
        np.testing.assert_array_equal(domain.targets[:, 0], own[:, column])
        np.testing.assert_array_equal(domain.inputs, own[:, [j for j in range(13) if j != column]])


def test_the_targets_of_the_wines_are_other_data():
    prints = {
        datasets["wine_cultivar"](target=name).fingerprint() for name in ("color_intensity", "proline", "alcohol")
    }
    assert len(prints) == 3


def test_another_target_of_the_wines_is_refused():
    with pytest.raises(UnknownName, match=r"'prolin' is not a known target \(dataset.target\). Did you mean 'proline'"):
        datasets["wine_cultivar"](target="prolin")


def test_breast_cancer_is_cut_at_the_quartiles_of_mean_texture():
    (table,) = rows_of("breast_cancer_texture")  # 10 means, 10 errors, 10 worst; radius, texture, ...; is benign
    texture = table[:, 1]
    # The domain is the number of quartiles at or below a row's value.
    quarter = sum((texture >= np.quantile(texture, q)).astype(int) for q in (0.25, 0.5, 0.75))
    kept = [j for j in range(30) if j not in (1, 11, 21)]
    dataset = datasets["breast_cancer_texture"]()
    assert dataset.class_names == ("malignant", "benign")
    for i, domain in enumerate(dataset.domains):
        own = table[quarter == i]
        np.testing.assert_array_equal(domain.inputs, own[:, kept].astype(np.float32))
        np.testing.assert_array_equal(domain.targets, own[:, 30])
    share = [round(float(domain.targets.double().mean()), 3) for domain in dataset.domains]
    assert share == [0.915, 0.762, 0.493, 0.343]


def test_diabetes_is_grouped_by_sex_and_age():
    table, progression = rows_of("diabetes_sex_age")  # age, sex, bmi, bp, s1 to s6
    in_group = {"under_42": lambda a: a <= 41, "42_to_55": lambda a: 42 <= a <= 55, "from_56": lambda a: a >= 56}
    for domain in datasets["diabetes_sex_age"]().domains:
        sex, group = domain.name.removeprefix("sex").split("_", 1)
        own = [i for i, row in enumerate(table) if row[1] == int(sex) and in_group[group](row[0])]
        np.testing.assert_array_equal(domain.inputs, table[own, 2:].astype(np.float32))
        np.testing.assert_array_equal(domain.targets[:, 0], progression[own])


def test_within_a_species_the_line_rises_and_across_them_it_falls():
    x, y, domain = whole(datasets["iris_simpson"]())
    slopes = [np.polyfit(x[domain == i, 0], y[domain == i], 1)[0] for i in range(3)]
    assert np.round(slopes, 2).tolist() == [0.80, 0.32, 0.23]
    assert round(np.polyfit(x[:, 0], y, 1)[0], 2) == -0.06


def test_pooling_the_irises_gets_the_sign_wrong():
    parts = list(left_out(datasets["iris_simpson"](), ridge))
    errors = [rmse(*part) for part in parts]
    assert np.round(errors, 3).tolist() == [0.947, 0.536, 0.369]
    assert round(float(np.mean(errors)), 3) == 0.617
    assert [round(np.corrcoef(*part)[0, 1], 2) for part in parts[1:]] == [-0.53, -0.46]
    # The slope within the other domains has the right one.
    x, y, domain = whole(datasets["iris_simpson"]())
    for i in range(3):
        centred_x, centred_y = x[:, 0].copy(), y.copy()
        for j in range(3):
            centred_x[domain == j] -= x[domain == j, 0].mean()
            centred_y[domain == j] -= y[domain == j].mean()
        assert np.polyfit(centred_x[domain != i], centred_y[domain != i], 1)[0] > 0.2


@pytest.mark.parametrize(
    ("name", "options", "errors", "mean", "constant"),
    [
        ("wine_cultivar", {}, [1.14, 1.74, 5.01], 2.63, 2.92),
        ("wine_cultivar", {"target": "proline"}, None, 494.5, 399.9),
        ("wine_cultivar", {"target": "alcohol"}, None, 1.05, 1.03),
        ("diabetes_sex_age", {}, None, 56.0, 77.0),
    ],
    ids=["color_intensity", "proline", "alcohol", "diabetes"],
)
def test_the_error_of_a_linear_model_and_of_the_training_mean(name, options, errors, mean, constant):
    dataset = datasets[name](**options)
    found = [rmse(*part) for part in left_out(dataset, ridge)]
    digits = len(str(mean).split(".")[1])
    assert round(float(np.mean(found)), digits) == mean
    assert errors is None or np.round(found, 2).tolist() == errors
    _, y, domain = whole(dataset)
    means = [rmse(y[domain != i].mean(), y[domain == i]) for i in range(len(dataset.domains))]
    assert round(float(np.mean(means)), digits) == constant


def test_the_accuracy_of_a_linear_model_of_breast_cancer():
    parts = left_out(
        datasets["breast_cancer_texture"](), lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    )
    accuracies = [100 * np.mean(predicted == y) for predicted, y in parts]
    assert np.round(accuracies, 1).tolist() == [92.2, 98.6, 95.1, 88.8]
    assert round(float(np.mean(accuracies)), 1) == 93.7


@pytest.mark.parametrize(
    ("name", "least", "most"), [("diabetes_sex_age", -0.02, 0.02), ("wine_cultivar", 0.35, 0.5)], ids=str
)
def test_what_half_of_the_test_domain_is_worth(name, least, most):
    """The cost of the shift, as a share of the error: none to speak of in the control."""
    x, y, domain = whole(datasets[name]())
    errors = []
    for seed in range(5):
        for i in range(domain.max() + 1):
            own = np.random.default_rng(seed).permutation(np.flatnonzero(domain == i))
            seen, scored = np.array_split(own, 2)
            others = np.flatnonzero(domain != i)
            models = [ridge().fit(x[rows], y[rows]) for rows in (others, np.concatenate([others, seen]))]
            errors.append([rmse(model.predict(x[scored]), y[scored]) for model in models])
    without, having = np.mean(errors, axis=0)
    assert least < 1 - having / without < most
