"""The commands about adaptations, in experiments too; and adapters of one's own."""

import re

import pytest

from dgbench import experiment, plugins, registry
from dgbench.record import RunFolder
from tests import adapted, homemade
from tests.test_adaptation import OWN


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No plugin is in effect at first, and none remains."""
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    for kind in registry.EVERY:
        monkeypatch.setattr(kind, "_given", {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that holds one run."""
    return adapted.train(tmp_path_factory.mktemp("runs")).parent


def test_adapting_ranking_and_looking(command, trained, tmp_path):
    keys = [f"runs={trained}", "examples=16", "runs_dir=out"]
    code, out, err = command("adapt", "-m", *keys, "adapter=source,tent", "stream=online,mixed")
    assert (code, out.split(" (")[0]) == (0, "4 runs: 4 complete")
    assert "4 of 4 adaptations to do." in err
    again = command("adapt", "-m", *keys, "adapter=source,tent", "stream=online,mixed")[2]
    assert "Nothing to do: 4 of 4 adaptations are done." in again
    code, out, _ = command("table", "out")
    assert code == 0
    assert [line.rpartition(" ")[2] for line in out.splitlines() if line.startswith("digits_color")] == [
        "mixed",
        "online",
    ]
    assert "network small_cnn (batch norm); batches of 64; 16 examples of each; 1 trial" in out
    code, _, err = command("table", "out", "--format", "csv")
    assert code == 1
    assert "format=csv and protocol=None are options of tables of trained runs" in err
    assert command("status", "out")[0] == 0


def test_several_values_need_m_and_failures_end_in_code_1(command, trained):
    code, _, err = command("adapt", f"runs={trained}", "adapter=source,tent")
    assert (code, err.startswith("Error: adapter=source,tent: several values ask")) == (1, True)
    code, _, err = command("adapt", f"runs={trained}", "adapter=note", "runs_dir=out")
    assert code == 1
    assert "note on online, erm on digits_color" in err
    assert "train with network.norm=instance_aware" in err


def test_it_is_hydras_application(command, trained, tmp_path):
    code, out, _ = command("adapt", f"runs={trained}", "adapter=tent", "adapter.lr=0.5", "--cfg", "job")
    assert (code, "adapter:\n  name: tent\n  lr: 0.5\n" in out) == (0, True)
    code, out, _ = command("adapt", "--help")
    assert (code, "adapter: adanpc, alpha_bn," in out) == (0, True)
    code, _, err = command("adapt", f"runs={trained}", "adapter.lr=0.5")
    assert (code, "'adapter.lr' is not a known key of adapter=source stream=online" in err) == (1, True)
    keys = ["examples=16", "runs_dir=out", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    code, out, err = command("adapt", "-m", f"runs={trained}", "adapter=source,tent", *keys)
    assert (code, out.split(" (")[0].splitlines()[-1]) == (0, "2 runs: 2 complete"), err
    assert {(RunFolder(path).read() or {})["columns"]["adapter"] for path in (tmp_path / "out").iterdir()} == {
        "source",
        "tent",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_lists_and_sheets(command):
    _, out, _ = command("list", "adapters")
    assert {"source", "tent", "t3a"} <= {line.split()[0] for line in out.splitlines()}
    _, out, _ = command("show", "adapter", "tent")
    assert "tent  Tent, test-time adapter, version" in out
    for part in (
        "With lr=0 it is bn_adapt.",
        "A network with batch or group",
        "num_updates",
        "Set one with adapter.lr=VALUE.",
    ):
        assert part in out
    code, _, err = command("show", "adapter", "tnet")
    assert (code, "Did you mean 'tent'" in err) == (1, True)


def test_an_adapter_of_ones_own_from_another_folder(command, trained, tmp_path, monkeypatch):
    homemade.write(tmp_path, {"my_adapter.py": OWN, "lab/algorithms/test_time/shelved.py": OWN})
    code, out, _ = command("check", "my_adapter.py")
    assert (code, out.splitlines()[0].strip()) == (0, "adapter my_adapter")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    keys = [f"runs={trained}", "plugins=[../my_adapter.py,../lab]", "examples=8", "runs_dir=out"]
    assert command("adapt", "-m", *keys, "adapter=my_adapter,shelved,source")[0] == 0
    assert "my_adapter" in command("table", "out")[1]
    assert "test_time" in next(line for line in command("list", "adapters")[1].splitlines() if "shelved" in line)
    assert "shelved" not in registry.algorithms
    said = RunFolder(next((tmp_path / "elsewhere/out").iterdir())).read()
    assert said is not None
    assert said["config"]["plugins"] == plugins.in_effect()


STAGES = """
summary: Train, adapt, rank.
stages:
  - train:
      - dataset=digits_color
      - test_domains=[0],[1]
      - network=small_cnn
      - network.norm=batch
      - protocol.num_steps=3
      - protocol.evaluate_every=3
      - optim.batch_size=4
  - adapt: ["adapter=source,bn_adapt,note", examples=8, skip_refused=true]
  - table: {of: adapt}
"""


def test_an_experiment_trains_adapts_and_ranks(command, tmp_path):
    (tmp_path / "mine.yaml").write_text(STAGES)
    code, out, _ = command("experiment", "mine.yaml")
    assert code == 0
    assert "2. adapt: adapter=source,bn_adapt,note examples=8 skip_refused=true" in out
    assert "4 runs: 4 complete" in out
    assert "note on digits_color, small_cnn: needs a network with instance_aware" in out
    assert "digits_color: accuracy in % on the stream online" in out
    assert len(list((tmp_path / "runs/experiments/mine/adapted").iterdir())) == 4
    code, _, err = command("experiment", "mine.yaml")
    assert (code, "Nothing to do: 4 of 4 adaptations are done." in err) == (0, True)
    # What a later stage trains is not adapted by an earlier one, whenever that is asked again.
    later = "  - train: [dataset=digits_color, 'test_domains=[2]', protocol.num_steps=1]\n"
    (tmp_path / "mine.yaml").write_text(STAGES + later)
    for _ in range(2):
        code, _, err = command("experiment", "mine.yaml")
        assert (code, "Nothing to do: 4 of 4 adaptations are done." in err) == (0, True), err
    # Of runs in several folders, of the stages before alone.
    more = "  - train: [runs_dir=zz_more, dataset=digits_color, protocol.num_steps=1]\n  - table: {of: adapt}\n"
    (tmp_path / "mine.yaml").write_text(STAGES + more)
    code, out, err = command("experiment", "mine.yaml", "test_domains=[0]", "algorithm=erm")
    assert (code, out.count("on the stream online")) == (0, 2), err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STAGES.replace("bn_adapt", "bn_adap"), "stage 2 (adapt): 'bn_adap' is not a known adapter. Did you mean"),
        (STAGES.replace("examples=8", "batch_size=x"), "stage 2 (adapt): batch_size='x': input should be a valid"),
        (STAGES.replace("examples=8", "batch_size=0"), "stage 2 (adapt): batch_size=0, expected 1 or more"),
        (STAGES.replace("of: adapt", "of: both"), "stages.2.table.of: Input should be 'train' or 'adapt'"),
        (
            STAGES.replace("of: adapt", "of: adapt, format: csv"),
            "format=csv and protocol=None are options of tables of",
        ),
        (
            "summary: x\nstages:\n  - adapt: [adapter=tent]",
            "stage 1 (adapt): there is nothing to adapt yet. Put a stage",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        experiment.plan("mine.yaml")
