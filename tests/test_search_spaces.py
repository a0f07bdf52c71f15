"""DomainBed's table of defaults and distributions, written anew, against what the files of the methods say."""

import hashlib
from dataclasses import fields
from types import NoneType

import numpy as np
import pytest

from dgbench.hparams import Optim, draw, filled
from dgbench.registry import algorithms

# The algorithms of DomainBed, by their names here.
DOMAINBED = """
    erm erm_plus_plus fish irm group_dro mixup mldg coral mmd dann cdann mtl sag_net arm vrex rsc sd and_mask sand_mask
    iga self_reg fishr trm ib_erm ib_irm cad cond_cad transfer caus_irl_coral caus_irl_mmd eqrm rdm adrmx urm
"""
REGIMES = ("small", "large", "domain_net")
SEEDS = [(1, 0), (1, 1), (2, 0), (7, 2), (13, 1), (19, 2)]


def hashed(*args):
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % (1 << 31)


def flat(low, high):
    return lambda r: r.uniform(low, high)


def power(base, low, high):
    return lambda r: base ** r.uniform(low, high)


def integer(sample):
    return lambda r: int(sample(r))


def one_of(*values):
    return lambda r: r.choice(values)


def always(value):
    return lambda r: value


ANNEAL = 500, integer(power(10, 0, 4))
# {field: (key, default, sample)} of the methods there are.
METHODS: dict[str, dict[str, tuple]] = {
    "erm": {},
    "irm": {
        "penalty_weight": ("irm_lambda", 100.0, power(10, -1, 5)),
        "anneal_steps": ("irm_penalty_anneal_iters", *ANNEAL),
        "estimator": ("estimator", "halves", always("halves")),
        "rescale": ("rescale", False, always(False)),
        "l2_weight": ("l2_weight", 0.0, always(0.0)),
        "resets_optimizer": ("resets_optimizer", True, always(True)),
    },
    "vrex": {
        "penalty_weight": ("vrex_lambda", 10.0, power(10, -1, 5)),
        "anneal_steps": ("vrex_penalty_anneal_iters", *ANNEAL),
    },
    "ib_erm": {
        "penalty_weight": ("ib_lambda", 100.0, power(10, -1, 5)),
        "anneal_steps": ("ib_penalty_anneal_iters", *ANNEAL),
    },
    "ib_irm": {
        "irm_weight": ("irm_lambda", 100.0, power(10, -1, 5)),
        "irm_anneal_steps": ("irm_penalty_anneal_iters", *ANNEAL),
        "ib_weight": ("ib_lambda", 100.0, power(10, -1, 5)),
        "ib_anneal_steps": ("ib_penalty_anneal_iters", *ANNEAL),
    },
    "eqrm": {
        "quantile": ("eqrm_quantile", 0.75, flat(0.5, 0.99)),
        "burn_in_steps": ("eqrm_burnin_iters", 2500, integer(power(10, 2.5, 3.5))),
        "final_lr": ("eqrm_lr", 1e-6, power(10, -7, -5)),
    },
    "rdm": {
        "penalty_weight": ("rdm_lambda", 5.0, flat(0.1, 10)),
        "anneal_steps": ("rdm_penalty_anneal_iters", 1500, integer(flat(800, 2700))),
        "variance_weight": ("variance_weight", 0.004, flat(0.001, 0.007)),
        "final_lr": ("rdm_lr", 1.5e-5, flat(8e-6, 2e-5)),
    },
    "group_dro": {"eta": ("groupdro_eta", 0.01, power(10, -3, -1))},
    # Its own are the steps and rates that DomainBed fixes in the code.
    "trm": {
        "erm_steps": ("iters", 200, ANNEAL[1]),
        "matching_weight": ("cos_lambda", 1e-4, power(10, -5, 0)),
        "eta": ("groupdro_eta", 0.01, power(10, -3, -1)),
        "head_steps": ("head_steps", 30, always(30)),
        "head_lr": ("head_lr", 0.1, always(0.1)),
        "num_terms": ("num_terms", 10, always(10)),
    },
    "transfer": {
        "penalty_weight": ("t_lambda", 1.0, power(10, -2, 1)),
        "delta": ("delta", 2.0, flat(0.1, 3)),
        "d_steps": ("d_steps_per_g", 10, one_of(1, 2, 5)),
        "lr_d": ("lr_d", 1e-3, power(10, -4.5, -2.5)),
    },
    "coral": {"penalty_weight": ("mmd_gamma", 1.0, power(10, -1, 1))},
    "mmd": {"penalty_weight": ("mmd_gamma", 1.0, power(10, -1, 1))},
    "caus_irl_coral": {"penalty_weight": ("mmd_gamma", 1.0, power(10, -1, 1))},
    "caus_irl_mmd": {"penalty_weight": ("mmd_gamma", 1.0, power(10, -1, 1))},
    "cad": {
        "penalty_weight": ("lmbda", 0.1, one_of(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)),
        "temperature": ("temperature", 0.1, one_of(0.05, 0.1)),
        "is_flipped": ("is_flipped", True, always(True)),
        "is_normalized": ("is_normalized", False, always(False)),
    },
    "adrmx": {
        "contrast_weight": ("cnt_lambda", 1.0, always(1.0)),
        "domain_weight": ("dclf_lambda", 1.0, always(1.0)),
        "remix_weight": ("rmxd_lambda", 1.0, always(1.0)),
        "adversarial_weight": ("disc_lambda", 0.75, always(0.75)),
        "d_steps_per_g_step": ("d_steps_per_g_step", 2, always(2)),
        "beta1": ("beta1", 0.5, always(0.5)),
        "mlp_width": ("mlp_width", 256, always(256)),
        "mlp_depth": ("mlp_depth", 9, one_of(8, 9, 10)),
        "mlp_dropout": ("mlp_dropout", 0.0, always(0.0)),
    },
    "urm": {
        "adversarial_weight": ("urm_adv_lambda", 0.1, flat(0, 0.2)),
        "activation": ("urm_generator_output", "tanh", one_of("tanh", "relu")),
        "hidden_layers": ("urm_discriminator_hidden_layers", 1, one_of(1, 2, 3)),
    },
    "mixup": {"alpha": ("mixup_alpha", 0.2, power(10, -1, 1))},
    "and_mask": {"tau": ("tau", 1.0, flat(0.5, 1))},
    # DomainBed's default of tau, 1, trains nothing.
    "sand_mask": {"tau": ("tau", 0.5, flat(0, 1)), "k": ("k", 10.0, power(10, -3, 5))},
    "iga": {"penalty_weight": ("penalty", 1000.0, power(10, 1, 5))},
    "mldg": {
        "beta": ("mldg_beta", 1.0, power(10, -1, 1)),
        "num_meta_test": ("n_meta_test", 2, one_of(1, 2)),
        "moves_statistics": ("moves_statistics", True, always(True)),
    },
    "arm": {},
    "mtl": {"ema": ("mtl_ema", 0.99, one_of(0.5, 0.9, 0.99, 1.0))},
    "sd": {"penalty_weight": ("sd_reg", 0.1, power(10, -5, -1))},
    "rsc": {
        "feature_share": ("rsc_f_drop_factor", 1 / 3, flat(0, 0.5)),
        "batch_share": ("rsc_b_drop_factor", 1 / 3, flat(0, 0.5)),
    },
    "sag_net": {"adversarial_weight": ("sag_w_adv", 0.1, power(10, -2, 1))},
    # Fixed in DomainBed's code.
    "self_reg": {
        "alpha": ("self_reg_alpha", 0.5, always(0.5)),
        "feature_weight": ("self_reg_feature_weight", 0.3, always(0.3)),
    },
    # The paper's form; DomainBed's has only meta_lr.
    "fish": {
        "form": ("form", "paper", always("paper")),
        "meta_lr": ("meta_lr", 0.5, one_of(0.05, 0.1, 0.5)),
        "meta_steps": ("meta_steps", 5, always(5)),
        "pretrain_steps": ("pretrain_steps", 0, always(0)),
    },
    "fishr": {
        "penalty_weight": ("lambda", 1000.0, power(10, 1, 4)),
        "anneal_steps": ("penalty_anneal_iters", 1500, integer(flat(0, 5000))),
        "ema": ("ema", 0.95, flat(0.9, 0.99)),
    },
    "erm_plus_plus": {
        "linear_lr": ("linear_lr", 5e-5, power(10, -5, -3.5)),
        "linear_steps": ("linear_steps", 500, always(500)),
        "sma_start": ("sma_start", 600, always(600)),
    },
    # Not DomainBed's.
    "drm": {},
    "knn_loss": {"temperature": ("temperature", 0.1, always(0.1))},
    "miro": {
        "penalty_weight": ("miro_ld", 0.1, power(10, -3, 0)),
        "lr_multiplier": ("miro_lr_mult", 10.0, always(10.0)),
    },
    "cutmix": {"prob": ("cutmix_prob", 1.0, one_of(0.5, 1.0)), "alpha": ("cutmix_alpha", 1.0, always(1.0))},
    "lisa": {"mix_ratio": ("mix_ratio", 0.5, flat(0, 1)), "alpha": ("lisa_alpha", 2.0, power(10, -1, 1))},
    "c_mixup": {
        "bandwidth": ("c_mixup_bandwidth", 1.0, power(10, -2, 2)),
        "alpha": ("c_mixup_alpha", 2.0, one_of(0.5, 1.0, 1.5, 2.0)),
        "sampler": ("c_mixup_sampler", "dataset", one_of("dataset", "batch")),
        "mixes": ("c_mixup_mixes", "input", one_of("input", "manifold")),
        "stage": ("stage", None, always(None)),
        "lambda_per": ("lambda_per", "batch", always("batch")),
    },
    "manifold_mixup": {
        "alpha": ("manifold_mixup_alpha", 2.0, power(10, -1, 1)),
        "stages": ("stages", None, always(None)),
    },
    "mixstyle": {
        "alpha": ("mixstyle_alpha", 0.1, one_of(0.1, 0.2, 0.3)),
        "probability": ("mixstyle_p", 0.5, always(0.5)),
        "pairing": ("mixstyle_pairing", "random", always("random")),
        "stages": ("mixstyle_stages", None, always(None)),
    },
    "irm_v2": {
        "penalty_weight": ("irm_v2_lambda", 10.0, power(10, -1, 4)),
        "anneal_steps": ("irm_v2_penalty_anneal_iters", *ANNEAL),
        "ridge": ("irm_v2_ridge", 1e-3, power(10, -4, 0)),
    },
    "sam": {"rho": ("rho", 0.05, one_of(0.01, 0.02, 0.05, 0.1))},
    "asam": {"rho": ("asam_rho", 0.5, one_of(0.1, 0.2, 0.5, 1.0)), "eta": ("asam_eta", 0.01, always(0.01))},
    "gsam": {
        "rho": ("gsam_rho", 0.05, one_of(0.01, 0.02, 0.05, 0.1)),
        "alpha": ("gsam_alpha", 0.4, one_of(0.1, 0.2, 0.4, 0.8)),
    },
    "dann": {
        "form": ("form", "grl", always("grl")),
        "adversarial_weight": ("lambda", 1.0, power(10, -2, 2)),
        "d_steps_per_g_step": ("d_steps_per_g_step", 1, integer(power(2, 0, 3))),
        "grad_penalty": ("grad_penalty", 0.0, power(10, -2, 1)),
        "weight_decay_d": ("weight_decay_d", 0.0, power(10, -6, -2)),
        "beta1": ("beta1", 0.5, one_of(0.0, 0.5)),
        "mlp_width": ("mlp_width", 256, integer(power(2, 6, 10))),
        "mlp_depth": ("mlp_depth", 3, one_of(3, 4, 5)),
        "mlp_dropout": ("mlp_dropout", 0.0, one_of(0.0, 0.1, 0.5)),
    },
}
METHODS["cdann"] = METHODS["dann"]
METHODS["cond_cad"] = METHODS["cad"]


RDM_DOMAIN_NET = {
    "penalty_weight": ("rdm_lambda", 0.5, flat(0.1, 1)),
    "anneal_steps": ("rdm_penalty_anneal_iters", 2400, integer(flat(1500, 3000))),
    "variance_weight": ("variance_weight", 0.0, always(0.0)),
}
RDM_BATCH_SIZES = {"small": (64, power(2, 3, 9)), "large": (88, flat(70, 100)), "domain_net": (40, flat(30, 60))}


def optim_table(regime, lr="lr", weight_decay="weight_decay"):
    small = regime == "small"
    size = {"small": (64, power(2, 3, 9)), "large": (32, power(2, 3, 5.5)), "domain_net": (32, power(2, 3, 5))}
    return {
        "lr": (lr, *((1e-3, power(10, -4.5, -2.5)) if small else (5e-5, power(10, -5, -3.5)))),
        "weight_decay": (weight_decay, 0.0, always(0.0) if small else power(10, -6, -2)),
        "batch_size": ("batch_size", size[regime][0], integer(size[regime][1])),
        "dropout": ("resnet_dropout", 0.0, one_of(0.0, 0.1, 0.5)),
        "optimizer": ("optimizer", "adam", always("adam")),
    }


def tables(method, regime):
    """Of the method's own hyper-parameters and of `Optim`."""
    if method == "rdm":
        default, sample = RDM_BATCH_SIZES[regime]
        own = METHODS["rdm"] | (RDM_DOMAIN_NET if regime == "domain_net" else {})
        return own, optim_table(regime) | {"batch_size": ("batch_size", default, integer(sample))}
    if method == "arm" and regime != "small":
        return METHODS["arm"], optim_table(regime) | {"batch_size": ("batch_size", 8, always(8))}
    if method == "adrmx":
        lr, values = (3e-3, (5e-4, 1e-3, 2e-3, 3e-3)) if regime == "small" else (3e-5, (2e-5, 3e-5, 4e-5, 5e-5))
        return METHODS["adrmx"], optim_table(regime) | {"lr": ("lr", lr, one_of(*values))}
    if method == "urm":
        lr_d = (1e-3, power(10, -5.5, -3.5)) if regime == "small" else (5e-5, power(10, -6, -4.5))
        return METHODS["urm"] | {"lr_d": ("urm_discriminator_lr", *lr_d)}, optim_table(regime)
    if method == "knn_loss":
        small = regime == "small"
        sizes = (500, 1000, 2000, 2500, 3500) if small else (1000, 1500, 2000, 2500, 3500, 5000)
        size = (1000 if small else 3500, one_of(*sizes))
        k = (10, one_of(5, 10, 20, 50, 100, 150)) if small else (150, one_of(*range(25, 151, 25), 200, 500))
        own = {"queue_size": ("queue_size", *size), "k": ("k", *k), **METHODS["knn_loss"]}
        drawn = optim_table(regime)["lr"] if small else ("lr", 1e-4, power(10, -5, -3.5))
        return own, optim_table(regime) | {"lr": drawn}
    if method not in ("dann", "cdann"):
        return METHODS[method], optim_table(regime)
    optim = optim_table(regime, lr="lr_g", weight_decay="weight_decay_g")
    return METHODS[method] | {"lr_d": ("lr_d", *optim["lr"][1:])}, optim


def check(drawn, expected):
    values = {f.name: getattr(drawn, f.name) for f in fields(drawn)}
    values.pop("num_steps", None)
    assert values == expected
    assert {type(value) for value in values.values()} <= {bool, int, float, str, list, NoneType}
    assert [type(v) for v in values.values()] == [type(expected[name]) for name in values]


def plain(value):
    return value.item() if isinstance(value, np.generic) else value


def test_every_algorithm_of_domainbed_is_here():
    names = set(DOMAINBED.split())
    assert len(names) == 34
    assert names <= set(algorithms.names())
    assert names <= set(METHODS)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("method", METHODS)
def test_defaults_and_draws_are_those_of_the_table(method, regime):
    cls = algorithms[method]
    for kind, overrides, table in zip(
        (cls.HParams, Optim), (None, cls.optim_fields), tables(method, regime), strict=True
    ):
        for trial in (0, 2):
            expected = {name: default for name, (_, default, _) in table.items()}
            check(draw(kind, 0, trial, regime=regime, overrides=overrides), expected)
            check(filled(kind(), regime, overrides), expected)
        for seeds in SEEDS:
            expected = {
                name: plain(sample(np.random.RandomState(hashed(hashed(*seeds), key))))
                for name, (key, _, sample) in table.items()
            }
            check(draw(kind, *seeds, regime=regime, overrides=overrides), expected)
