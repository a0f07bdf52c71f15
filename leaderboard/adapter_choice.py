"""Hyper-parameters of adapters: defaults, those that the training domains choose, and an oracle, side by side.

A setting is chosen per trained model, among all that were run: by the mean score on its training domains' held-out
examples, each streamed and adapted to as the test domains are (`target=validation`); of equals the first draw. The
oracle takes the best on the test domains' own stream, which nobody could know: what a perfect choice would give.

Source: the comparison in Iwasawa and Matsuo. Test-Time Classifier Adjustment Module for Model-Agnostic Domain
Generalization. NeurIPS 2021.
"""

from __future__ import annotations

import polars as pl

CHOSEN, ORACLE = "chosen", "oracle"
# One choice: of a trained model, for an adapter on a stream.
STUDY = ("source", "source_step", "source_criterion", "adapter", "stream_key", "batch_size", "examples", "seed")
SETTING = "adapter_options"


def with_choices(values: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """What stands in tables of adaptations, and sentences on the choices that could not be made.

    Args:
        values: as `read_rows` gives them.

    Returns:
        The rows of the test domains, with the column `choice`: empty for settings that were asked for by their
        values, `chosen` and `oracle` for those among several. Draws stand there only as such.
    """
    on_test = values.filter(target="test")
    shown = on_test.filter(hparams_seed=0).with_columns(choice=pl.lit(""))
    on_validation = values.filter(target="validation")
    is_asked = (pl.col("hparams_seed").max().over(STUDY) > 0) | pl.col("adapter").is_in(
        on_validation["adapter"].implode()
    )
    several = on_test.filter(is_asked, pl.col(SETTING).n_unique().over(STUDY) > 1)
    if several.is_empty():
        return shown, ()
    settings = several.select(*STUDY, SETTING).unique()
    lacking = settings.join(on_validation, on=[*STUDY, SETTING], how="anti", nulls_equal=True)
    unchoosable = lacking.select(STUDY).unique()
    choosable = several.join(unchoosable, on=STUDY, how="anti", nulls_equal=True)
    chosen = _best(on_validation.join(choosable.select(STUDY).unique(), on=STUDY, how="semi", nulls_equal=True))
    parts = [shown]
    for choice, best in ((CHOSEN, chosen), (ORACLE, _best(several))):
        taken = several.join(best, on=[*STUDY, SETTING], how="semi", nulls_equal=True)
        parts.append(taken.with_columns(choice=pl.lit(choice)))
    said = []
    if names := sorted(lacking["adapter"].unique()):
        said.append(f"{', '.join(names)}: none is chosen, as not every setting has target=validation beside it.")
    counts = settings.group_by(STUDY).len().select("adapter", "len").unique().sort("adapter", "len")
    listed = ", ".join(f"{number} of {adapter}" for adapter, number in counts.iter_rows())
    said.append(
        f"Chosen: by the training domains' held-out examples after adaptation to them. Oracle: by the stream itself, "
        f"so it is no result. Settings: {listed}."
    )
    return pl.concat(parts), tuple(said)


def _best(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each study the setting with the highest mean score over domains and rounds."""
    means = (
        rows.filter(phase="stream", is_pooled=False)
        .group_by(*STUDY, SETTING, "domain")
        .agg(pl.col("signed_score").mean(), pl.col("hparams_seed").first())
        .group_by(*STUDY, SETTING)
        .agg(pl.col("signed_score").mean().fill_nan(float("-inf")), pl.col("hparams_seed").first())
    )
    order = ["signed_score", "hparams_seed", SETTING]
    return means.sort(order, descending=[True, False, False]).unique(STUDY, keep="first", maintain_order=True)
