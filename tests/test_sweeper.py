"""Sweeps: which runs a command asks for, what is skipped, what is said at the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import dgbench
from dgbench import application, cli, composition, config, expansion, sweeper, train_command
from dgbench.algorithms.erm import ERM
from dgbench.api import literal
from dgbench.registry import UnknownName

FEW = {"protocol": {"num_steps": 3, "evaluate_every": 2}, "optim.batch_size": 4, "network.width": 8}
FEW_TEXT = ["protocol.num_steps=3", "protocol.evaluate_every=2", "optim.batch_size=4", "network.width=8"]


def dgbench_command(*arguments, cwd):
    command = [sys.executable, "-W", "ignore", "-m", "dgbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def test_each_is_expanded_per_dataset():
    jobs = expansion.expand(["algorithm=erm,vrex", "dataset=digits_rot,digits_color", "test_domains=each"])
    assert len(jobs) == 2 * (6 + 3)
    tests = {(job.run.dataset_name, job.run.domains.test) for job in jobs}
    assert ("digits_rot", ("rot45",)) in tests
    assert ("digits_color", ("minus90",)) in tests
    assert all(set(job.run.domains.train).isdisjoint(job.run.domains.test) for job in jobs)


def test_values_multiply_and_equal_runs_count_once():
    jobs = expansion.expand(
        ["dataset=digits_color", "test_domains=[0],[plus90],[plus80]", "hparams_seed=range(3)", "trial_seed=0,1"]
    )
    assert len(jobs) == 2 * 3 * 2
    assert len({job.run.run_id for job in jobs}) == len(jobs)


def test_a_key_that_only_some_methods_have_is_an_error_that_names_it():
    with pytest.raises(UnknownName, match=r"'algorithm.penalty_weight' is not a known key. .*Known: algorithm.name"):
        expansion.expand(["algorithm=vrex,erm", "dataset=digits_rot", "algorithm.penalty_weight=3"])
    jobs = expansion.expand(["algorithm=vrex,irm", "dataset=digits_color", "algorithm.penalty_weight=3,4"])
    assert sorted({(job.run.algorithm, job.run.hp.penalty_weight) for job in jobs}) == [
        ("irm", 3.0),
        ("irm", 4.0),
        ("vrex", 3.0),
        ("vrex", 4.0),
    ]


def test_what_a_worker_composes_is_what_was_expanded():
    jobs = expansion.expand(["algorithm=vrex,dann", "dataset=digits_rot", "hparams_seed=0,2", "network=mlp,small_cnn"])
    for job in jobs[::5]:
        again = config.resolve(composition.compose(job.overrides))
        assert again.run_id == job.run.run_id


def test_an_interval_is_no_list_of_values():
    with pytest.raises(ValueError, match=r"optim.lr=interval\(0,1\): expected values separated by commas"):
        expansion.expand(["optim.lr=interval(0,1)"])


def test_the_python_route_asks_for_the_runs_of_the_command(tmp_path):
    report = dgbench.sweep(
        algorithm=["erm", "vrex"], dataset="digits_color", test_domains="each", runs_dir=str(tmp_path), **FEW
    )
    assert dict(report.counts) == {"complete": 6}
    jobs = expansion.expand(
        ["algorithm=erm,vrex", "dataset=digits_color", "test_domains=each", f"runs_dir={tmp_path}", *FEW_TEXT]
    )
    assert {job.run.run_id for job in jobs} == {p.parent.name for p in tmp_path.glob("*/run.json")}
    assert sweeper.pending(jobs) == []


@pytest.mark.parametrize("value", [None, True, 3, 1e-5, "a b", "it's", "back\\slash", [1, "x"], "${x}", "a,b=c"])
def test_python_values_survive_hydras_grammar(value):
    (override,) = composition.parse([f"key={literal(value)}"])
    assert override.value() == value


def test_failures_are_counted_and_listed_with_their_reasons(tmp_path, monkeypatch, capsys):
    def loss(self, batch):
        raise RuntimeError("the sensor fell off")

    monkeypatch.setattr(ERM, "loss", loss)
    report = dgbench.sweep(algorithm=["erm", "vrex"], dataset="digits_color", runs_dir=str(tmp_path), **FEW)
    assert dict(report.counts) == {"failed": 3, "complete": 3}
    assert report.failures[0] == ("erm on digits_color, test plus90, h0 t0", "RuntimeError: the sensor fell off")


REFUSED = "c_mixup works for regression, but the task is classification."


def test_methods_that_the_data_do_not_fit_are_left_out_if_asked(tmp_path, capsys):
    keys = {"algorithm": ["erm", "c_mixup"], "dataset": "digits_color", "runs_dir": str(tmp_path), **FEW}
    report = dgbench.sweep(**keys, skip_refused=True)
    assert (dict(report.counts), report.refused) == ({"complete": 3}, (("c_mixup on digits_color", REFUSED),))
    assert {json.loads(p.read_text())["columns"]["algorithm"] for p in tmp_path.glob("*/run.json")} == {"erm"}
    assert len(list(tmp_path.glob("*/"))) == 3 + 1  # and `sweeps`
    assert cli.show_report(report) == 0
    assert f"Left out:\n  c_mixup on digits_color: {REFUSED}\n" in capsys.readouterr().out

    report = dgbench.sweep(**keys)
    assert (dict(report.counts), report.refused) == ({"complete": 3, "failed": 3}, ())
    assert report.failures[0][1] == f"ValueError: {REFUSED}"


def test_status_counts_and_estimates_what_is_left(tmp_path):
    dgbench.sweep(dataset="digits_color", test_domains="each", runs_dir=str(tmp_path), **FEW)
    said = sweeper.status(tmp_path)
    assert (said["counts"], said["planned"], said["left"]) == ({"complete": 3}, 3, 0)

    folders = sorted(path.parent for path in tmp_path.glob("*/run.json"))
    (folders[0] / "run.json").unlink()
    interrupted = json.loads((folders[1] / "run.json").read_text())
    (folders[1] / "run.json").write_text(json.dumps({**interrupted, "status": "running"}))
    said = sweeper.status([tmp_path])
    assert said["counts"] == {"interrupted": 1, "complete": 1}
    assert (said["not started"], said["left"]) == (1, 2)
    known = [json.loads((f / "run.json").read_text())["seconds"] for f in folders[1:]]
    assert said["seconds_left"] == pytest.approx(2 * sum(known) / 2)


def test_the_command_sweeps_with_joblib_and_then_has_nothing_to_do(tmp_path):
    arguments = ["train", "-m", "algorithm=erm,vrex", "dataset=digits_color", "test_domains=each", "runs_dir=out"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = dgbench_command(*arguments, *FEW_TEXT, *launcher, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 runs: 6 complete" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    here = dgbench.sweep(
        algorithm=["erm", "vrex"], dataset="digits_color", test_domains="each", runs_dir=str(tmp_path / "here"), **FEW
    )
    assert dict(here.counts) == {"complete": 6}
    for folder in (tmp_path / "here").glob("*/evaluations.jsonl"):
        other = tmp_path / "out" / folder.parent.name / folder.name
        assert folder.read_text() == other.read_text(), "a worker's numbers equal those of this process"

    again = dgbench_command(*arguments, *FEW_TEXT, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Nothing to do: 6 of 6 runs are done." in again.stderr


def test_one_run_on_the_command_line_prints_its_folder(tmp_path):
    arguments = ["train", "dataset=digits_rot", "test_domains=[rot30]", "algorithm=coral", "runs_dir=out", *FEW_TEXT]
    done = dgbench_command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / Path(done.stdout.strip())
    assert json.loads((folder / "run.json").read_text())["status"] == "complete"
    assert "coral on digits_rot, test rot30, h0 t0: complete" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "-m", "algorithm=erm,vrexx"], "'vrexx' is not a known algorithm. Did you mean 'vrex'? Known: "),
        (["train", "dataset=digit_rot"], "'digit_rot' is not a known dataset. Did you mean 'digits_rot'?"),
        (["train", "-m", "trainer.max_epochs=3"], "trainer.max_epochs is not open: dgbench sets the rest"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dgbench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_hydras_own_flags_behave(tmp_path):
    shown = dgbench_command("train", "--cfg", "job", "algorithm=vrex", "optim.lr=0.5", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "penalty_weight: null" in shown.stdout
    assert "lr: 0.5" in shown.stdout
    helped = dgbench_command("train", "--help", cwd=tmp_path)
    assert helped.returncode == 0, helped.stderr
    assert "vrex" in helped.stdout


def test_drawn_hyper_parameters_compete_in_one_table(tmp_path):
    dgbench.sweep(dataset="digits_color", test_domains=["plus90"], hparams_seed=range(4), runs_dir=str(tmp_path), **FEW)
    dropouts = {json.loads(p.read_text())["identity"]["optim"]["dropout"] for p in tmp_path.glob("*/run.json")}
    assert len(dropouts) > 1
    (sheet,) = dgbench.table(str(tmp_path)).sheets
    assert "4 hparams draws" in sheet.subtitle


def test_each_leaves_out_the_domains_that_validate():
    jobs = expansion.expand(["dataset=digits_color", "test_domains=each", "val_domains=[plus80]"])
    assert [(job.run.domains.test, job.run.domains.val) for job in jobs] == [
        (("plus90",), ("plus80",)),
        (("minus90",), ("plus80",)),
    ]


def test_the_environment_is_read_on_both_routes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path / "here"))
    (job,) = expansion.expand(["test_domains=[0]", "runs_dir=${oc.env:SOMEWHERE}"])
    assert job.run.keys.runs_dir == str(tmp_path / "here")


def test_the_home_folder_is_understood_behind_a_key(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    (override,) = composition.parse(["dataset.root=~/photos"])
    assert override.value() == "/home/x/photos"
    (override,) = composition.parse(["dataset.root='~/my photos'"])
    assert override.value() == "/home/x/my photos"


def test_nothing_to_do_tells_what_failed_and_how_to_try_again(tmp_path, monkeypatch, capsys):
    def loss(self, batch):
        raise RuntimeError("no")

    keys = {"dataset": "digits_color", "test_domains": ["plus90"], "runs_dir": str(tmp_path), **FEW}
    with monkeypatch.context() as broken:
        broken.setattr(ERM, "loss", loss)
        for _ in range(3):
            dgbench.sweep(**keys)
    said = " ".join(capsys.readouterr().err.split())
    assert "Nothing to do: 0 of 1 runs are done, 1 failed before (retry=true tries them again)." in said


def test_a_runs_dir_that_is_a_file_is_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    for flags in ([], ["-m"]):
        monkeypatch.setattr(sys, "argv", ["dgbench", "train", *flags, "test_domains=[0]", f"runs_dir={tmp_path}/file"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == 1
        assert "Cannot write under" in capsys.readouterr().err


def test_a_run_that_another_process_writes_does_not_end_a_workers_sweep(tmp_path, monkeypatch):
    lines = ["dataset=digits_color", "test_domains=[0]", f"runs_dir={tmp_path}", *FEW_TEXT]
    (job,) = expansion.expand(lines)
    monkeypatch.setattr(application, "_is_worker", lambda: True)
    job.run.folder.create()
    with job.run.folder.lock.held():
        assert "is being written by process" in (train_command.job(OmegaConf.create(job.run.config)) or "")
    assert train_command.job(OmegaConf.create({**job.run.config, "test_domains": [0]})) is None
    assert job.run.folder.status() == "complete"
