"""From overrides to a resolved run: explicit value > draw > default, and every mistake a sentence."""

import pytest

from dgbench import composition, config, hparams
from dgbench.registry import UnknownName


def resolved(*overrides):
    return config.resolve(composition.compose(["dataset=digits_rot", "test_domains=[rot0]", *overrides]))


def test_defaults_come_from_the_method_the_regime_and_the_card():
    run = resolved("algorithm=vrex")
    assert (run.hp.penalty_weight, run.hp.anneal_steps) == (10.0, 250)  # 500, capped at half of 500 steps
    assert (run.optim.lr, run.optim.batch_size, run.optim.num_steps) == (1e-3, 64, 500)
    assert (run.protocol.num_steps, run.protocol.evaluate_every) == (500, 100)
    assert run.recipe["name"] == "mlp"


def test_a_draw_replaces_defaults_and_an_explicit_value_replaces_both():
    drawn = resolved("algorithm=vrex", "hparams_seed=3", "trial_seed=1", "protocol.num_steps=100000")
    expected = hparams.draw(type(drawn.hp), 3, 1, regime="small")
    assert drawn.hp == expected
    explicit = resolved(
        "algorithm=vrex", "hparams_seed=3", "trial_seed=1", "algorithm.penalty_weight=7", "optim.lr=0.25"
    )
    assert explicit.hp.penalty_weight == 7.0
    assert explicit.optim.lr == 0.25
    assert explicit.optim.batch_size == drawn.optim.batch_size


def test_an_explicit_step_count_is_not_capped():
    assert resolved("algorithm=vrex", "algorithm.anneal_steps=400").hp.anneal_steps == 400


def test_the_seed_is_hashed_from_what_the_run_is():
    run = resolved("algorithm=vrex", "hparams_seed=2", "trial_seed=1")
    assert run.seed == hparams.seed_hash("digits_rot", "vrex", ["rot0"], 2, 1)
    assert resolved("seed=5").seed == 5


def test_network_name_is_short_and_auto_is_recorded_resolved():
    assert resolved("network=small_cnn").recipe["name"] == "small_cnn"
    assert resolved().run_id == resolved("network=mlp").run_id == resolved("network=mlp", "network.width=128").run_id
    assert resolved("network.width=64").run_id != resolved().run_id


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["optim.lr=fast"], r"optim.lr='fast': input should be a valid number"),
        (["trial_seed=-1"], r"trial_seed=-1, expected 0 or more"),
        (["protocol.num_steps=0"], r"protocol.num_steps=0, expected at least 1"),
        (["protocol.holdout_fraction=1.5"], r"protocol.holdout_fraction=1.5, expected between 0 and 1"),
        (["protocol.uda_holdout_fraction=1"], r"protocol.uda_holdout_fraction=1.0, expected at least 0"),
        (["test_domains=each"], r"test_domains=each asks for 6 runs. Add -m, or name one: test_domains=\[rot0\]"),
        (["test_domains=[9]"], r"test_domains: 9 is no index of rot0, .* expected 0 to 5"),
        (["val_domains=[rot0]"], r"rot0 stands in val_domains and in test_domains; a domain has one role"),
        (["trainer.devices=2"], r"trainer.devices=2 .*: a run uses one device in this version"),
        (["optim.batch_size=0"], r"optim.batch_size=0, expected at least 1"),
        (["optim.lr=-1"], r"optim.lr=-1.0, expected at least 0"),
        (["optim.dropout=1"], r"optim.dropout=1.0, expected at least 0 and less than 1"),
        (["trainer.accumulate_grad_batches=0"], r"accumulate_grad_batches=0, expected at least 1"),
        (["trainer.gradient_clip_val=0"], r"gradient_clip_val=0.0, expected more than 0, or null"),
        (["dataset.target_scale=standard"], r"scales regression targets, but this task is a classification"),
        (["dataset.target_scale=x"], r"dataset.target_scale='x', expected standard, minmax or none"),
        (["optim"], r"Cannot read an override: .*Write key=value"),
    ],
)
def test_a_value_that_does_not_fit_is_a_sentence(overrides, text):
    with pytest.raises(ValueError, match=text):
        resolved(*overrides)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["optim.lrr=1"], r"'optim.lrr' is not a known key. Did you mean 'optim.lr'\? Known: optim.lr, "),
        (["tril_seed=1"], r"'tril_seed' is not a known key. Did you mean 'trial_seed'\?"),
        (["algorithm=vrex", "algorithm.penalty_wight=1"], r"Did you mean 'algorithm.penalty_weight'\?"),
        (["test_domains=[rot1]"], r"'rot1' is not a known domain \(test_domains\). Did you mean 'rot15'\?"),
        (["checkpoints=best"], r"'best' is not a known value of checkpoints. Known: none, selected, all"),
        (["logger=wandbb"], r"'wandbb' is not a known value of logger. Did you mean 'wandb'\?"),
        (["trainer.precision=half"], r"'half' is not a known precision .* Known: 32-true, bf16-mixed, 16-mixed"),
        (["protocol.sampling=balancd"], r"Did you mean 'balanced'\?"),
        (["optim.optimizer=adan"], r"'adan' is not a known optimizer. Did you mean 'adam'\?"),
        (["algorithm=dann", "algorithm.form=gan"], r"'gan' is not a known form .* Known: grl, alternating"),
        (["protocol=dgbenc"], r"'dgbenc' is not a known protocol. Did you mean 'dgbench'\?"),
        (["network=mpl"], r"'mpl' is not a known network. Did you mean 'mlp'\?"),
    ],
)
def test_an_unknown_name_is_a_sentence_with_a_suggestion(overrides, text):
    with pytest.raises(UnknownName, match=text):
        resolved(*overrides)


def test_what_hydra_refuses_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"hydra/launcher") as error:
        composition.compose(["hydra/launcher=nonsense"])
    assert "\n" not in str(error.value)
