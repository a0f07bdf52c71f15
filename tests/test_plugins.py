"""Components from outside the package, however they are named."""

import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

import dgbench
from dgbench import application, cli, composition, config, expansion, plugins, registry
from dgbench.registry import ComponentError, Registry, algorithms, datasets
from tests import homemade

FEW = {"protocol": {"num_steps": 2, "evaluate_every": 2}, "optim.batch_size": 4, "workers": 0}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing is in effect at first, and nothing remains."""
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    for kind in registry.EVERY:
        monkeypatch.setattr(kind, "_given", {})


@pytest.fixture
def folder(tmp_path):
    """A folder that mirrors the shelves, its methods with relative imports."""
    return homemade.write(
        tmp_path / "mine",
        {
            "_factor.py": homemade.HELPER,
            "algorithms/_factor.py": homemade.HELPER,
            "algorithms/top_method.py": homemade.method(helper="._factor"),
            "algorithms/risk/deep_method.py": homemade.method(helper="..._factor"),
            "datasets/my_data.py": homemade.dataset(),
        },
    )


def test_a_folder_mirrors_the_shelves(folder):
    shelf = algorithms.names()
    plugins.add([folder])
    assert algorithms.names() == sorted([*shelf, "deep_method", "top_method"])
    assert "my_data" in datasets
    assert algorithms.place("deep_method").family == "risk"
    assert algorithms.place("top_method").family == ""
    assert algorithms.place("top_method").module not in sys.modules
    for name in ("deep_method", "top_method"):
        assert algorithms[name].__module__ == algorithms.place(name).module
        assert sys.modules[algorithms.place(name).module].doubled(3) == 6


def test_a_kind_that_is_a_sub_folder_of_a_shelf_is_found_there(tmp_path, monkeypatch):
    tuner = Registry("tuner", "dgbench.algorithms", "builtins:Exception", only="test_time")
    monkeypatch.setattr(registry, "EVERY", (*registry.EVERY, tuner))
    files = {"algorithms/test_time/one.py": "class One(Exception):\n    pass\n", "two.py": "class T(Exception): ...\n"}
    plugins.add([homemade.write(tmp_path, files), tmp_path / "two.py"])
    assert {"one", "two"} <= set(tuner.names())
    assert "one" not in algorithms
    assert issubclass(tuner["one"], Exception)


def test_folders_of_one_name_do_not_clash(tmp_path):
    for side in ("left", "right"):
        helper = homemade.HELPER.replace("2 *", f"{len(side)} *")
        files = {"_factor.py": helper, f"{side}_method.py": homemade.method(helper="._factor")}
        plugins.add([homemade.write(tmp_path / side / "mine" / "algorithms", files).parent])
    for side in ("left", "right"):
        assert sys.modules[algorithms[f"{side}_method"].__module__].doubled(1) == len(side)


@pytest.mark.parametrize("separator", [",", os.pathsep, " , "])
def test_the_environment_names_files_and_folders(folder, separator, monkeypatch):
    homemade.write(folder.parent, {"own_method.py": homemade.method(), "own_data.py": homemade.dataset()})
    monkeypatch.setenv("DGBENCH_PLUGINS", separator.join(["mine", "own_method.py", "./own_data.py"]))
    assert {"deep_method", "own_method"} <= set(algorithms.names())
    assert {"my_data", "own_data"} <= set(datasets.names())
    assert "own_data" not in algorithms
    # Written in the sources, so no import was needed to know.
    assert algorithms.place("own_method").module not in sys.modules
    plugins.add()
    expected = [str(folder), str(folder.parent / "own_method.py"), str(folder.parent / "own_data.py")]
    assert os.environ["DGBENCH_PLUGINS"].split(",") == expected == plugins.in_effect()


def test_the_kind_of_a_file_with_another_base_is_told_by_importing_it(tmp_path):
    text = "from dgbench.algorithms.erm import ERM\n\n\nclass Better(ERM):\n    pass\n"
    plugins.add([homemade.write(tmp_path, {"better_erm.py": text}) / "better_erm.py"])
    assert algorithms["better_erm"].__name__ == "Better"
    assert "better_erm" not in datasets


def test_a_file_named_twice_is_one_component(folder):
    file = folder / "algorithms" / "risk" / "deep_method.py"
    plugins.add([folder, file, str(file)])
    assert algorithms["deep_method"].__module__ == algorithms.place("deep_method").module


def test_installed_modules_and_packages(tmp_path, monkeypatch):
    files = {
        "lab_package/__init__.py": "raise RuntimeError('imported')\n",
        "lab_package/method_of_lab.py": homemade.method(),
        "lab_shelves/algorithms/shelved_method.py": homemade.method(),
    }
    monkeypatch.syspath_prepend(homemade.write(tmp_path / "site", files))
    plugins.add(["lab_package.method_of_lab", "lab_shelves"])
    assert algorithms.place("method_of_lab").module == "lab_package.method_of_lab"
    assert algorithms["shelved_method"].__module__ == "lab_shelves.algorithms.shelved_method"


def test_a_worker_process_finds_what_was_pickled_by_its_name(folder, tmp_path):
    homemade.write(tmp_path, {"own_method.py": homemade.method(helper="._factor"), "_factor.py": homemade.HELPER})
    plugins.add([folder, "own_method.py"])
    helpers = [sys.modules[algorithms[name].__module__].doubled for name in ("deep_method", "own_method")]
    assert len({helper.__module__ for helper in helpers}) == 2
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pickled").write_bytes(pickle.dumps(helpers))
    code = "import pickle, sys; print([f(3) for f in pickle.load(open(sys.argv[1], 'rb'))])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "pickled"],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[6, 6]\n", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere", r"'nowhere' is no folder here \(.*\) and no module that can be imported. Name a folder that holds"),
        ("nowhere.deeper", r"'nowhere.deeper' is no folder here"),
        ("..", "holds no folder algorithms/ or datasets/. Put components into such folders"),
        ("mine/algorithms", "algorithms holds no folder .* Did you mean .*mine?"),
        ("./gone.py", "gone.py is no folder and no .py file. Name a folder that holds algorithms/ or datasets/, or"),
        ("a,b", "'a,b' holds a character that separates plugins .* Rename it, or name it by a link"),
    ],
)
def test_what_cannot_be_a_plugin_is_answered_in_a_sentence(folder, name, text):
    with pytest.raises(ValueError, match=text):
        plugins.add([name])
    assert plugins.in_effect() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", r"subclasses of Algorithm or MultiDomainDataset or Adapter \(none\), expected exactly one"),
        ("import not_there\n", r"cannot be imported \(ModuleNotFoundError: .*'not_there'\) at line 1 of .*x.py. Mend"),
        ("def :\n", r"cannot be imported \(SyntaxError: .* line 1\)\)\. Mend it"),
    ],
)
def test_a_file_of_no_kind_is_answered_in_a_sentence(tmp_path, text, said):
    with pytest.raises(ComponentError, match=said):
        plugins.add([homemade.write(tmp_path, {"x.py": text}) / "x.py"])
    assert plugins.in_effect() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from ._gone import x\n", r"unfinished.py cannot be imported \(ModuleNotFoundError: .*_gone'\) at line 1 of"),
        ("def :\n", r"unfinished.py cannot be imported \(SyntaxError: .* line 1\)\)\. Mend it"),
        ("1 / 0\n", r"unfinished.py cannot be imported \(ZeroDivisionError: division by zero\) at line 1 of .*unfinis"),
        (
            "import lab_tools.x\n",
            r"needs the package 'lab_tools', which is not installed. Install it: pip install lab_",
        ),
    ],
)
def test_an_unfinished_file_of_a_folder_is_answered_when_it_is_used(folder, text, said):
    plugins.add([homemade.write(folder, {"algorithms/unfinished.py": text})])
    listed = CliRunner().invoke(cli.app, ["list", "algorithms"])
    assert listed.exit_code == 0
    assert "unfinished" in listed.stdout
    assert ("no Python: invalid syntax" in listed.stdout) == text.startswith("def")
    with pytest.raises(ComponentError, match=said):
        algorithms["unfinished"]


@pytest.mark.parametrize("other", ["shelf", "plugin"])
def test_a_name_that_is_taken_is_an_error_that_names_both_places(folder, other, monkeypatch):
    name = {"shelf": "erm", "plugin": "deep_method"}[other]
    plugins.add([folder])
    taken = algorithms.place(name).path
    file = homemade.write(folder.parent, {f"{name}.py": homemade.method()}) / f"{name}.py"
    with pytest.raises(ValueError, match=f"Two algorithms are called '{name}': {taken} and {file}. Rename one"):
        plugins.add([file])
    assert plugins.in_effect() == [str(folder)]
    monkeypatch.delenv("DGBENCH_PLUGINS")
    with pytest.raises(ValueError, match="Two algorithms are called"):
        plugins.add([folder, file])
    assert "DGBENCH_PLUGINS" not in os.environ


def test_the_key_takes_a_list_or_one(folder, monkeypatch):
    homemade.write(folder.parent, {"own_method.py": homemade.method()})
    (override,) = composition.parse(["plugins=mine"])
    assert override.value() == [str(folder)]
    monkeypatch.setenv("HOME", str(folder.parent))
    (override,) = composition.parse(["plugins=[mine,~/own_method.py]"])
    assert override.value() == plugins.in_effect() == [str(folder), str(folder.parent / "own_method.py")]
    assert composition.compose(["plugins=null", "algorithm=own_method"])["plugins"] == plugins.in_effect()
    with pytest.raises(ValueError, match=r"plugins=\[a\],b: all runs of a command have the same plugins. Write"):
        composition.parse(["plugins=[a],b"])


def test_a_sweep_hands_all_plugins_on(folder, monkeypatch):
    homemade.write(folder.parent, {"own_method.py": homemade.method()})
    monkeypatch.setenv("DGBENCH_PLUGINS", "own_method.py")
    *_, handed = application._stashed(composition.parse(["plugins=mine"]), "train")
    assert handed == f"hydra.sweeper.arguments=['plugins=[\\'{folder.parent}/own_method.py\\',\\'{folder}\\']']"


def test_a_run_is_the_same_wherever_its_plugins_are(folder, monkeypatch):
    keys = ["algorithm=deep_method,top_method", "dataset=my_data", "test_domains=0", "protocol.num_steps=2"]
    jobs = expansion.expand([*keys, "plugins=mine"])
    assert [job.run.algorithm for job in jobs] == ["deep_method", "top_method"]
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    again = config.resolve(jobs[0].run.config)  # as a worker process that has inherited nothing
    assert again.run_id == jobs[0].run.run_id
    assert again.config["plugins"] == [str(folder)]
    assert str(folder) not in str(again.identity)


def test_the_python_route_takes_plugins_and_classes(folder, tmp_path):
    site = homemade.write(tmp_path / "site", {"given_method.py": homemade.method("Given")})
    given = plugins.imported(site / "given_method.py").Given
    plugins.add(["mine"])
    data = datasets["my_data"]
    keys = {**FEW, "test_domains": [0], "runs_dir": tmp_path / "runs", "plugins": ["mine"]}
    outcome = dgbench.train(algorithm=given, dataset=data, **keys)
    assert (outcome.status, outcome.skipped) == ("complete", False)
    assert dgbench.train(algorithm="given_method", dataset="my_data", **keys).skipped
    assert type(dgbench.load(outcome.folder)) is given
    report = dgbench.sweep(algorithm=[given, "top_method", "erm"], dataset=data, **keys)
    assert report.counts == {"complete": 3}
    algorithms._given.clear()
    text = r"'given_method' is not a known algorithm. .* One of your own is named by plugins=.* registry.algorithms.add"
    with pytest.raises(LookupError, match=text):
        dgbench.load(outcome.folder)


def test_a_component_that_changed_without_a_new_version_is_named(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(homemade.method("Mine"))
    keys: dict[str, Any] = {
        "plugins": [str(file)],
        "algorithm": ["mine", "erm"],
        "dataset": "digits_color",
        "test_domains": ["plus90"],
    }
    keys |= {**FEW, "runs_dir": str(tmp_path / "runs")}
    assert dict(dgbench.sweep(**keys).counts) == {"complete": 2}
    dgbench.sweep(**keys)
    assert "have changed" not in capsys.readouterr().err
    file.write_text(file.read_text() + "# another text\n")
    dgbench.sweep(**keys)
    said = capsys.readouterr().err
    assert "The files of mine have changed since runs of theirs were made, but not their version. Raise it" in said
    assert "Nothing to do" in said
