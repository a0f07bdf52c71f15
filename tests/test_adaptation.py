"""What an adaptation is: its keys, what they expand to, what decides its name."""

import json
from typing import Any

import pytest

from dgbench import adaptation, plugins
from dgbench.adaptation import expand
from dgbench.registry import UnknownName
from tests.fabricate import make_run


@pytest.fixture
def runs(tmp_path):
    """Two complete runs, one that is not, and an adaptation, as files."""
    folder = tmp_path / "runs"
    for test, status in (("a", "complete"), ("b", "complete"), ("c", "interrupted")):
        run_id = make_run(folder, test=(test,), status=status)
        amend(folder / run_id / "run.json", identity={"network": {"norm": "batch"}}, label=f"erm on {test}")
    amend(folder / make_run(folder, trial_seed=7) / "run.json", kind="adapt")
    return folder


def amend(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_every_combination_of_each_complete_run_is_there_once(runs):
    made = expand([f"runs={runs}", "adapter=tent,tent,source"])
    assert [(a.adapter, a.said["label"][-1]) for a in made] == [
        (name, a.said["label"][-1]) for name in ("tent", "source") for a in made[:2]
    ]
    assert len({a.run_id for a in made}) == len(made) == 4
    assert made[0].label.startswith("tent on online, erm on ")
    assert made[0].folder.path.name == made[0].run_id
    assert len(expand([f"runs=[{made[0].trained.path},{runs}]"])) == 2
    assert len(expand([f"runs={made[0].trained.path},{made[1].trained.path}"])) == 2


USUAL = ["adapter=tent", "stream=continual"]
DECIDES = [
    "adapter=bn_adapt",
    "adapter.lr=0.5",
    "stream=gradual",
    "stream.rounds=2",
    "batch_size=3",
    "examples=9",
    "seed=1",
    "source_after=false",
    "step=19",
    "hparams_seed=3",
    "target=validation",
]
LEAVES = [
    "runs_dir=elsewhere",
    "overwrite=true",
    "retry=true",
    "threads=2",
    "group=mine",
    "logger=wandb",
    "accelerator=cpu",
    "data_dir=/x",
    "skip_refused=true",
    "adapter.lr=0.001",
    "adapter.lr=null",
    "stream.rounds=1",
]


@pytest.mark.parametrize("key", DECIDES + LEAVES)
def test_what_decides_the_numbers_decides_the_name_and_nothing_else(runs, key):
    name = key.split("=")[0]
    usual = [one for one in USUAL if not one.startswith(f"{name}=")]
    before, after = expand([f"runs={runs}", *USUAL])[0], expand([f"runs={runs}", *usual, key])[0]
    assert (before.run_id != after.run_id) == (key in DECIDES)


def test_the_version_of_an_adapter_decides_the_name(runs, monkeypatch):
    (first, _) = expand([f"runs={runs}", "adapter=tent"])
    monkeypatch.setattr("dgbench.algorithms.test_time.tent.Tent.version", 99)
    assert expand([f"runs={runs}", "adapter=tent"])[0].run_id != first.run_id


def test_columns_say_of_which_model_and_stream(runs):
    (made, _) = expand([f"runs={runs}", "stream=continual", "stream.rounds=3", "adapter=tent"])
    columns: dict[str, Any] = made.columns
    assert columns["stream_options"] == "rounds=3"
    assert expand([f"runs={runs}", "stream=continual"])[0].columns["stream_options"] == ""
    assert (columns["norm"], columns["draw"], columns["network_key"]) == ("batch", "hparams0", "network0")
    amend(made.trained.run_file, columns={**made.said["columns"], "hparams_seed": 4})
    assert expand([f"runs={made.trained.path}"])[0].columns["draw"] == "hparams_seed=4"
    amend(made.trained.run_file, columns={**made.said["columns"], "tuned": "oracle in search"})
    assert expand([f"runs={made.trained.path}"])[0].columns["draw"] == ""


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        (["adapter=tnet"], UnknownName, "'tnet' is not a known adapter. Did you mean 'tent'"),
        (["stream=onlin"], UnknownName, "'onlin' is not a known stream. Did you mean 'online'"),
        (["batchsize=3"], UnknownName, "'batchsize' is not a known key of adapter=source stream=online. Did you mean"),
        (["adapter=tent", "adapter.lrr=3"], UnknownName, "'adapter.lrr' is not a known key .* mean 'adapter.lr'"),
        (["accelerator=tpu"], UnknownName, "'tpu' is not a known value of accelerator"),
        (["target=train"], UnknownName, "'train' is not a known value of target"),
        (["logger=tensorboard"], UnknownName, "'tensorboard' is not a known value of logger"),
        (["batch_size=0"], ValueError, "^batch_size=0, expected 1 or more.$"),
        (["examples=0"], ValueError, "^examples=0, expected 1 or more.$"),
        (["seed=-1"], ValueError, "^seed=-1, expected 0 or more.$"),
        (["hparams_seed=-1"], ValueError, "^hparams_seed=-1, expected 0 or more.$"),
        (["threads=-2"], ValueError, "^threads=-2, expected 0 or more.$"),
        (["batch_size=x"], ValueError, "^batch_size='x': input should be a valid integer"),
        (["adapter=tent", "adapter.lr=x"], ValueError, "^adapter.lr='x': input should be a valid number"),
        (["stream=continual", "stream.rounds=0"], ValueError, "rounds=0"),
        (["batch_size"], ValueError, "^Cannot read an override: .* Write key=value"),
        (["batch_size=${nothing}"], ValueError, "nothing"),
    ],
)
def test_what_does_not_fit_is_a_sentence(runs, keys, error, said):
    with pytest.raises(error, match=said):
        expand([f"runs={runs}", *keys])


def test_runs_that_are_not_there_are_a_sentence(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is not a folder of runs"):
        expand(["runs=gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"runs=empty holds 0 trained runs, none of them complete. Train some"):
        expand(["runs=empty"])


def test_plugins_reach_the_composition_and_are_recorded(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    (tmp_path / "my_adapter.py").write_text(OWN)
    (made, _) = expand([f"runs={runs}", "plugins=[my_adapter.py]", "adapter=my_adapter", "adapter.scale=3"])
    assert (made.adapter, made.hp.scale) == ("my_adapter", 3)
    assert made.config["plugins"] == plugins.in_effect() == [str(tmp_path / "my_adapter.py")]
    assert str(tmp_path) not in json.dumps(made.identity)
    assert adaptation.resolve(made.config, made.trained).run_id == made.run_id


OWN = '''"""An adapter of one's own: sharper answers."""

from dataclasses import dataclass

from dgbench.adapter import Adapter
from dgbench.hparams import hparam, uniform


@dataclass(kw_only=True)
class HParams:
    """Of the adapter."""

    scale: float = hparam(2.0, uniform(1, 3), "factor of the logits")


class Sharper(Adapter):
    """Answer `scale * f(x)`."""

    HParams = HParams

    def adapt(self, x):
        """Of a batch."""
        return self.answer(x)

    def answer(self, x):
        """Of the model."""
        return self.hp.scale * self.logits(x)
'''
