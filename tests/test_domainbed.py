import hashlib
import json
from typing import Any

import pytest

from dgbench.composition import compose, presets
from dgbench.domainbed import ALGORITHMS, DATASETS, _ours, _theirs
from dgbench.protocol import domainbed_jobs
from dgbench.registry import UnknownName, algorithms, datasets

ERM: dict[str, Any] = {"algorithms": ["ERM"], "data_dir": "/data"}


def digest(jobs):
    """Of seeds and folders in order."""
    return hashlib.sha256("".join(f"{job.folder} {job.seed}\n" for job in jobs).encode()).hexdigest()[:16]


def test_a_job_has_domainbed_s_seed_arguments_and_folder():
    job = domainbed_jobs(["ERM"], ["PACS"], data_dir="/data")[0]
    assert job.seed == 94828300
    assert job.folder == "7358bc3c867a56585b37a848f2aaa0c1"
    assert job.arguments == {
        "dataset": "PACS",
        "algorithm": "ERM",
        "test_envs": [0],
        "holdout_fraction": 0.2,
        "hparams_seed": 0,
        "data_dir": "/data",
        "task": "domain_generalization",
        "trial_seed": 0,
        "seed": 94828300,
    }


# From DomainBed's own enumeration at commit b93c22a.
@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        (ERM, 12_900, "f3631a73728fd8ae"),
        ({**ERM, "single_test_envs": True}, 4_200, "894e447e1bc3abeb"),
        (
            {
                "algorithms": ["VREx", "GroupDRO"],
                "datasets": ["PACS", "RotatedMNIST"],
                "n_hparams_from": 3,
                "n_hparams": 5,
                "n_trials": 2,
                "steps": 300,
                "hparams": '{"batch_size": 8}',
                "holdout_fraction": 0.1,
                "task": "domain_adaptation",
                "data_dir": "/data",
            },
            248,
            "8a4587f3be8dfa9c",
        ),
        (
            {"algorithms": ["URM"], "datasets": ["Debug28"], "n_hparams": 1, "n_trials": 1, "data_dir": "/data"},
            6,
            "6683832de40409f3",
        ),
    ],
    ids=["pairs", "single", "every option", "debug"],
)
def test_jobs_come_in_domainbed_s_order_with_its_seeds_and_folders(asked, count, expected):
    jobs = domainbed_jobs(**asked)
    assert len(jobs) == count
    assert digest(jobs) == expected


def test_all_defaults_ask_for_every_method_on_every_dataset_that_is_not_for_debugging():
    jobs = domainbed_jobs(data_dir="/data")
    assert len(jobs) == 438_600
    # Every 1,000th, from DomainBed's own enumeration.
    assert digest(jobs[::1000]) == "5f6bfb948c8cb8e5"


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (360, ["ColoredMNIST", "SpawriousO2O_easy", "SpawriousM2M_hard"]),
        (600, ["VLCS", "PACS", "OfficeHome", "TerraIncognita"]),
        (900, ["WILDSCamelyon"]),
        (1260, ["RotatedMNIST", "DomainNet", "WILDSFMoW"]),
        (3300, ["SVIRO"]),
    ],
)
def test_a_dataset_has_as_many_jobs_as_its_domains_have_pairs_and_singles(count, names):
    for name in names:
        assert len(domainbed_jobs(datasets=[name], **ERM)) == count


def test_names_may_be_spelled_as_dgbench_does():
    ours, theirs = (
        ["erm", "vrex", "group_dro", "ib_irm", "causirl_mmd"],
        ["ERM", "VREx", "GroupDRO", "IB_IRM", "CausIRL_MMD"],
    )
    asked: dict[str, Any] = {"data_dir": "/data", "n_hparams": 1}
    assert domainbed_jobs(ours, ["rotated_mnist"], **asked) == domainbed_jobs(theirs, ["RotatedMNIST"], **asked)
    assert domainbed_jobs("erm", "pacs", **asked) == domainbed_jobs(["ERM"], ["PACS"], **asked)
    for kind, known in (("algorithm", ALGORITHMS), ("dataset", DATASETS)):
        assert _theirs(kind, [name.lower().replace("_", "") for name in known], known) == list(known)


def shared(registry, known):
    """DomainBed's names of components that dgbench has, with the names here."""
    found = []
    for name in known:
        try:
            found.append((name, _ours(registry, name)))
        except UnknownName:
            continue
    return found


def test_our_methods_and_datasets_are_found_by_domainbed_s_names():
    assert {("ERM", "erm"), ("VREx", "vrex"), ("CORAL", "coral")} <= set(shared(algorithms, ALGORITHMS))
    both = shared(datasets, DATASETS)
    assert {("PACS", "pacs"), ("RotatedMNIST", "rotated_mnist"), ("ColoredMNIST", "colored_mnist")} <= set(both)
    for theirs, ours in both:
        assert len(datasets[ours].card.domains) in (0, DATASETS[theirs])


def test_a_job_is_a_command_of_ours():
    first, second = domainbed_jobs(["erm"], ["pacs"], data_dir="/data", n_hparams=1)[:2]
    assert first.overrides() == [
        "algorithm=erm",
        "dataset=pacs",
        "test_domains=[0]",
        "hparams_seed=0",
        "trial_seed=0",
        "seed=94828300",
        "protocol=domainbed_2024",
    ]
    assert second.overrides("domainbed_2020")[2::4] == ["test_domains=[0,1]", "protocol=domainbed_2020"]
    assert {"domainbed_2020", "domainbed_2024"} <= set(presets())
    composed = compose(second.overrides())
    assert (composed["test_domains"], composed["seed"]) == ([0, 1], second.seed)
    assert composed["protocol"]["name"] == "domainbed_2024"


def test_what_a_job_sets_otherwise_is_set_in_its_command():
    own = json.dumps({"batch_size": 8, "resnet_dropout": 0.5, "vrex_lambda": 0.1})
    job = domainbed_jobs(["VREx"], ["PACS"], data_dir="d", steps=7, holdout_fraction=0.5, hparams=own)[0]
    assert job.overrides()[7:] == [
        "protocol.num_steps=7",
        "protocol.holdout_fraction=0.5",
        "optim.batch_size=8",
        "optim.dropout=0.5",
        "algorithm.penalty_weight=0.1",
    ]
    assert compose(job.overrides())["optim"]["dropout"] == 0.5


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        ({"algorithms": ["ERMM"]}, UnknownName, "'ERMM' is not a known algorithm of DomainBed. Did you mean 'ERM'"),
        ({"datasets": ["Pacss"]}, UnknownName, "'Pacss' is not a known dataset of DomainBed"),
        (
            {"task": "adaptation"},
            UnknownName,
            "'adaptation' is not a known task of DomainBed. Did you mean 'domain_ada",
        ),
        ({"n_hparams": 0}, ValueError, "n_hparams_from=0, n_hparams=0 and n_trials=3 ask for no job"),
        ({"n_hparams_from": 20}, ValueError, "n_hparams_from=20, n_hparams=20 .* ask for no job"),
        ({"n_hparams_from": -1}, ValueError, "n_hparams_from=-1, .* from n_hparams_from, at least 0"),
        ({"n_trials": 0}, ValueError, "n_trials=0 ask for no job: .* trials are at least 1"),
        ({"holdout_fraction": 1.0}, ValueError, "holdout_fraction=1.0, expected at least 0 and less than 1"),
        ({"steps": 0}, ValueError, "steps=0, expected at least 1, or None"),
        ({"hparams": "lr=1"}, ValueError, "hparams='lr=1', expected a JSON object as text"),
        ({"hparams": "[1]"}, ValueError, r"hparams='\[1\]', expected a JSON object"),
        ({"hparams": {"lr": 1}}, ValueError, "hparams={'lr': 1}, expected a JSON object as text"),
    ],
)
def test_what_domainbed_does_not_have_is_refused_in_a_sentence(asked, error, text):
    with pytest.raises(error, match=text):
        domainbed_jobs(**{**ERM, **asked})


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        ({"datasets": ["Debug28"]}, UnknownName, "'Debug28' is not a known dataset. Known: "),
        (
            {"hparams": '{"vrex_lambda": 1}'},
            UnknownName,
            "'vrex_lambda' is not a known hyper-parameter of DomainBed for",
        ),
        (
            {"task": "domain_adaptation"},
            ValueError,
            "which part .* without labels. .* add protocol.uda_holdout_fraction",
        ),
    ],
)
def test_what_dgbench_cannot_run_is_refused_when_its_command_is_asked_for(asked, error, text):
    job = domainbed_jobs(**{**ERM, "datasets": ["PACS"], **asked})[0]
    with pytest.raises(error, match=text):
        job.overrides()
