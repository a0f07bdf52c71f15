"""What a trained model answers, example by example: for error analysis, calibration, ensembles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from dgbench import composition, plugins
from dgbench.algorithm import Algorithm
from dgbench.dataset import MissingData, MultiDomainDataset
from dgbench.evaluation import evaluation_batch_size, evaluation_mode
from dgbench.expansion import choices
from dgbench.loader import Split, evaluation_batches
from dgbench.protocol import named_domains, split_indices, split_uda
from dgbench.record import RunFolder
from dgbench.registry import UnknownName
from dgbench.run import fingerprint, open_dataset
from dgbench.task import Task
from dgbench.trained import load
from dgbench.writing import replace_file, writable

KEYS = ("domain", "dataset", "dataset.<option>", "plugins")
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def predict(
    run: str | Path, *, step: int | None = None, data_dir: str | Path | None = None, **keys: Any
) -> pl.DataFrame:
    """What a run's model answers on its test domains, on other domains, or on other data.

    One row per example. Columns: `domain`; `split` (`in`, `out`, `uda` or an official name, as the run split its
    data; null on other data); `index`, the position in the domain; `target`; `prediction`. Classification: these are
    class indices, and `logits` is a list of floats (one, that of class 1, where the task has a single logit).
    Regression: these are floats in original units, or lists of floats where several values are regressed.

    Within a split the rows stand in the order of evaluation, so that their metrics are the recorded ones. Examples are
    never augmented, which they were for the record where the protocol says `augment_validation`.

    Args:
        run: the run's folder.
        step: of which evaluation; None: the one that `train_validation` chooses.
        data_dir: folder under which datasets keep their files; None: as recorded, else DGBENCH_DATA.
        keys: `domain` (names or indices; left out: the run's test domains, of other data all), `dataset` (name of
            other data with inputs and classes of the same shape), `"dataset.<option>"` (its options; without
            `dataset`, changes to those of the run) and `plugins`.

    Raises:
        FileNotFoundError: there is no run, its weights were not kept, or the data are not there.
        UnknownName: a key, a dataset or a domain that does not exist.
        ValueError: the data are not those of the run, or do not fit its model.
    """
    wanted, options = _read(keys)
    algorithm = load(run, step)
    said = RunFolder(run).read() or {}
    data, is_own = open_data(run, said, wanted.get("dataset"), options, data_dir)
    _check_fit(run, said, data)
    names = data.domain_names if not is_own else said["identity"]["domains"]["test"]
    if (asked := wanted.get("domain")) not in (None, [], ()):
        names = named_domains(asked if isinstance(asked, list | tuple) else [asked], data.domain_names, "domain")
    splits = [part for name in names for part in (splits_of(said, data, name) if is_own else [_whole(data, name)])]
    return pl.concat(list(_answers(said, algorithm, splits)))


def write(
    run: str | Path,
    arguments: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    step: int | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Write what `predict` answers as a parquet file.

    Args:
        run: the run's folder.
        arguments: `KEY=VALUE`, in Hydra's grammar.
        out: the file; None: `predictions.parquet` in the run's folder.
        step: as for `predict`.
        data_dir: as for `predict`.

    Returns:
        The file.

    Raises:
        CannotWrite: the file cannot be written.
    """
    keys: dict[str, Any] = {}
    for override in composition.parse(arguments):
        values = [value for _, _, value in choices(override)]
        keys[override.get_key_element()] = values if len(values) > 1 else values[0]
    answers = predict(run, step=step, data_dir=data_dir, **keys)
    path = Path(out) if out is not None else RunFolder(run).predictions_file
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, answers.write_parquet)
    return path


def _read(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys that are no options of the dataset, and those that are; plugins are in effect from here on."""
    flat: dict[str, Any] = {}
    for key, value in keys.items():
        flat |= (
            {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    options = {key.removeprefix("dataset."): flat[key] for key in flat if key.startswith("dataset.")}
    wanted = {key: value for key, value in flat.items() if not key.startswith("dataset.")}
    for key in wanted:
        if key not in KEYS:
            raise UnknownName("key of predict", key, KEYS)
    if isinstance(wanted.get("dataset"), list | tuple):
        raise ValueError(f"dataset={wanted['dataset']}: expected one name. Predict on one dataset after the other.")
    plugins.add(wanted.get("plugins") or ())
    return wanted, options


def open_data(
    run: str | Path, said: Mapping[str, Any], name: str | None, options: Mapping[str, Any], data_dir: str | Path | None
) -> tuple[MultiDomainDataset, bool]:
    """The data, and whether they are the run's own."""
    recorded, identity = dict(said["config"]["dataset"]), said["identity"]["dataset"]
    own_name = recorded.pop("name")
    if name is None:
        options = {**recorded, **options}
    data = _found(name or own_name, _places(said, data_dir), options)
    is_drawn = identity["options"].get("data_seed") == "seed"
    described = data.describe_options()
    if is_drawn and options.get("data_seed") == recorded["data_seed"]:
        described["data_seed"] = "seed"
    if name is not None or described != identity["options"]:
        return data, False
    got = {"version": data.card.version, "fingerprint": fingerprint(data)}
    expected = {key: identity[key] for key in got}
    if got != expected:
        raise ValueError(
            f"{run} was trained on {own_name} {_told(expected)}, but under {data.data_dir} it is {_told(got)}. "
            f"Say where those data are with --data-dir or dataset.root=..., or dataset={own_name} to predict on others."
        )
    if is_drawn:
        data = _found(own_name, [data.data_dir], {**options, "data_seed": said["identity"]["seed"]})
    return data, True


def _told(data: Mapping[str, Any]) -> str:
    return f"version {data['version']} with fingerprint {data['fingerprint']}"


def _places(said: Mapping[str, Any], data_dir: str | Path | None) -> list[str | Path]:
    """Where the data may be, first where they are most likely meant to be."""
    if data_dir is not None:
        return [data_dir]
    elsewhere = os.environ.get("DGBENCH_DATA")
    return [said["config"]["data_dir"], *([elsewhere] if elsewhere else [])]


def _found(name: str, places: Sequence[str | Path], options: Mapping[str, Any]) -> MultiDomainDataset:
    """The dataset at the first place where its files are."""
    for place in places[:-1]:
        with contextlib.suppress(MissingData):
            return open_dataset(name, str(place), options)
    return open_dataset(name, str(places[-1]), options)


def _check_fit(run: str | Path, said: Mapping[str, Any], data: MultiDomainDataset) -> None:
    model, task = said["model"], data.task
    got = _form(data.input_shape, task.kind, task.num_classes)
    expected = _form(model["input_shape"], model["task"]["kind"], model["task"]["num_classes"])
    if got != expected:
        raise ValueError(
            f"The data have {got}, but the model of {run} was trained on {expected}. "
            "Name data of that form, or bring them into it with their options."
        )


def _form(input_shape: Sequence[int], kind: str, num_classes: int) -> str:
    what = "classes" if kind == "classification" else "regressed values"
    return f"inputs of shape {tuple(input_shape)} and {num_classes} {what}"


Part = tuple[str | None, Split]


def _whole(data: MultiDomainDataset, name: str) -> Part:
    domain = data.domains[data.domain_names.index(name)]
    return None, Split(domain, torch.arange(len(domain)))


def splits_of(said: Mapping[str, Any], data: MultiDomainDataset, name: str) -> list[Part]:
    """The examples of a domain as the run split them, or would have split them had the domain taken part."""
    identity, (_, whole) = said["identity"], _whole(data, name)
    protocol, trial_seed = identity["protocol"], identity["trial_seed"]
    if protocol["splits"] == "official":
        declared = {split: parts[name] for split, parts in (data.splits or {}).items() if name in parts}
        return [(split, Split(whole.domain, indices)) for split, indices in declared.items()] or [(None, whole)]
    index, uda_fraction = data.domain_names.index(name), protocol["uda_holdout_fraction"]
    inside, outside = split_indices(len(whole), protocol["holdout_fraction"], trial_seed, index)
    drawn = {"in": inside, "out": outside}
    if name in identity["domains"]["test"] and uda_fraction > 0:
        drawn["in"], drawn["uda"] = split_uda(inside, uda_fraction, trial_seed, index)
    return [(split, Split(whole.domain, torch.from_numpy(indices))) for split, indices in drawn.items()]


def _answers(said: Mapping[str, Any], algorithm: Algorithm, parts: Sequence[Part]) -> Iterator[pl.DataFrame]:
    """The rows of each batch, computed as evaluations during training are: same batches, precision and threads."""
    configured = said["config"]
    is_on_gpu = torch.cuda.is_available() and configured["trainer"]["accelerator"] != "cpu"
    device = torch.device("cuda" if is_on_gpu else "cpu")
    algorithm.to(device)
    batch_size = evaluation_batch_size(algorithm, device)
    precision = AUTOCAST.get(said["identity"]["trainer"]["precision"])
    autocast = torch.autocast(device.type, precision) if precision else contextlib.nullcontext()
    with evaluation_mode(algorithm), autocast, threads(configured["threads"]):
        for split, part in parts:
            start = 0
            for x, y in evaluation_batches(part, batch_size, configured["workers"], device):
                index = part.indices[start : start + len(y)]
                start += len(y)
                yield pl.DataFrame(
                    {
                        "domain": pl.repeat(part.domain.name, len(y), eager=True),
                        "split": pl.repeat(split, len(y), dtype=pl.String, eager=True),
                        "index": index.numpy(),
                        **_columns(algorithm.task, algorithm(x), y),
                    }
                )


def _columns(task: Task, outputs: Tensor, y: Tensor) -> dict[str, pl.Series]:
    """Targets and answers of a batch.

    Args:
        task: what is predicted.
        outputs: logits or values in original units, (N, C).
        y: targets, (N,) or (N, C).
    """
    outputs = outputs.float()
    if not task.is_classification:
        return {"target": _series(y, task.num_classes == 1), "prediction": _series(outputs, task.num_classes == 1)}
    scores = torch.cat([torch.zeros_like(outputs), outputs], dim=-1) if task.single_logit else outputs
    # As the metrics do it: probabilities may be equal where logits are not.
    predicted = scores.softmax(-1).max(-1).indices
    return {"target": _series(y), "prediction": _series(predicted), "logits": _series(outputs)}


def _series(values: Tensor, is_single: bool = False) -> pl.Series:
    """One value, or one list, per row."""
    array = (values.squeeze(-1) if is_single else values).cpu().numpy()
    series = pl.Series(array)
    return series if array.ndim == 1 else series.arr.to_list()


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Inside, torch computes with so many threads; None: with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
