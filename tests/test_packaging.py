"""What is installed is what lies in the checkout, under its names, and runs without the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests import homemade

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
SHELVES = ("algorithms", "configs", "datasets", "leaderboard")
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", ".*_cache", ".DS_Store", "*.egg-info")

# Run at every start of the interpreter that the wheel is installed for, worker processes included.
GUARD = """
import os
import sys

CHECKOUT = {checkout}

def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(CHECKOUT):
        os.write(2, f"reads {{arguments[0]}} in the checkout".encode())
        os._exit(70)
    if event == "socket.connect" and not isinstance(arguments[1], (str, bytes)):
        if arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
            os.write(2, f"connects to {{arguments[1]}}".encode())
            os._exit(71)

sys.addaudithook(watch)
"""

WHERE = """
from importlib.util import find_spec

import dgbench
from hydra.core.plugins import Plugins

modules = ("dgbench.algorithms.erm", "dgbench.datasets.digits_rot", "hydra_plugins.dgbench_sweeper")
print(dgbench.__file__, *dgbench.__path__, *(find_spec(name).origin for name in modules), sep="\\n")
found = {cls.__name__ for cls in Plugins.instance().discover()}
assert found >= {"DGBenchSweeper", "JoblibLauncher"}, found
"""


def test_no_records_of_runs_are_kept_in_the_repository():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no checkout of git")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [PurePosixPath(path) for path in listed.stdout.split("\n")]
    assert PurePosixPath("pyproject.toml") in names
    records = {"run.json", "evaluations.jsonl", "wandb", "checkpoints"}
    assert not [str(path) for path in names if records & set(path.parts) or path.suffix in (".pt", ".ckpt", ".log")]


def installed_name(folder):
    """The package that a folder of the checkout becomes."""
    parts = folder.relative_to(ROOT).parts
    if parts == ("dgbench", "hydra_sweeper"):
        return "hydra_plugins.dgbench_sweeper"
    return ".".join(parts if parts[0] == "dgbench" else ("dgbench", *parts))


def files():
    """Path in the wheel and file of all that should ship."""
    for shelf in ("dgbench", *SHELVES):
        for path in sorted((ROOT / shelf).rglob("*")):
            relative = path.relative_to(ROOT)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            if path.is_file() and path.suffix != ".md" and not hidden:
                package = next(p for p in path.parents if p.name == shelf or any(p.glob("*.py")))
                name = PurePosixPath(*installed_name(package).split("."))
                yield str(name / path.relative_to(package).as_posix()), path


def test_packages_are_the_folders():
    folders = {path.parent for _, path in files() if path.suffix == ".py"}
    assert SETUPTOOLS["packages"] == sorted(map(installed_name, folders))


def test_every_shelf_is_mapped():
    mapped = {installed_name(ROOT / folder): folder for folder in (*SHELVES, "dgbench/hydra_sweeper")}
    assert SETUPTOOLS["package-dir"] == mapped


def test_which_folders_are_packages():
    assert (ROOT / "configs/__init__.py").is_file(), "Hydra's pkg:// looks for this file."
    assert not (ROOT / "datasets/__init__.py").exists(), "It would shadow Hugging Face's `datasets` in the checkout."
    assert not list((ROOT / "tests").rglob("__init__.py")), "It would put the checkout's root on sys.path."


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build/ and no metadata land in the checkout."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("dgbench", *SHELVES):
        shutil.copytree(ROOT / name, copy / name, ignore=LEFT_BEHIND)
    made = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", made, copy, cwd=made)
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment of the wheel and, without this one's editable install, the packages that it needs."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(home), "platbase": str(home)}))
    command = sysconfig.get_path("scripts", "venv", vars={"base": str(home), "platbase": str(home)})
    python = shutil.which("python", path=command)
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=home)
    # A .pth file adds folders to the path; it does not process the .pth files in them, which editable installs are.
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    checkout = tuple(f"{ROOT / name}{os.sep}" for name in ("dgbench", *SHELVES))
    (site / "guard.py").write_text(GUARD.format(checkout=checkout))
    (site / "others.pth").write_text("\n".join([*others, "import guard"]))
    return Path(command)


def call(*command, cwd, **env):
    """Output of a command that must succeed, in an environment that says nothing else of dgbench or Python."""
    env |= {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DGBENCH", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_wheel_has_every_file_of_the_shelves(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == {name for name, _ in files()}
    assert {"dgbench/py.typed", "dgbench/configs/config.yaml", "dgbench/configs/protocol/dgbench.yaml"} <= inside


def test_wheel_is_found_without_the_checkout(installed, tmp_path):
    places = call(installed / "python", "-c", WHERE, cwd=tmp_path).splitlines()
    assert len(places) == 5
    for place in places:
        assert Path(place).is_relative_to(installed.parent), place


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"open({str(ROOT / 'algorithms' / 'erm.py')!r})", "reads .*erm.py in the checkout"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "connects to"),
    ],
    ids=["checkout", "network"],
)
def test_guard_guards(code, said, installed, tmp_path):
    with pytest.raises(AssertionError, match=said):
        call(installed / "python", "-c", code, cwd=tmp_path)


def test_wheel_lists(installed, tmp_path):
    assert "erm " in call(installed / "dgbench", "list", "algorithms", cwd=tmp_path)
    assert "digits_rot " in call(installed / "dgbench", "list", "datasets", cwd=tmp_path)


def test_wheel_trains(installed, tmp_path):
    call(installed / "dgbench", "train", "test_domains=0", "protocol.num_steps=3", cwd=tmp_path)
    (run,) = tmp_path.glob("runs/*/run.json")
    assert '"complete"' in run.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A reader's own folder: methods, one of them with a helper, and a dataset."""
    files = {
        "mine/algorithms/_factor.py": homemade.HELPER,
        "mine/algorithms/risk/my_method.py": homemade.method("MyMethod", helper=".._factor"),
        "mine/datasets/my_data.py": homemade.dataset(),
        "own_method.py": homemade.method("OwnMethod"),
    }
    return homemade.write(tmp_path_factory.mktemp("elsewhere"), files)


@pytest.mark.parametrize("file", ["algorithms/risk/my_method.py", "datasets/my_data.py"])
def test_wheel_checks_what_is_homemade(file, installed, elsewhere):
    assert "\nno " not in call(installed / "dgbench", "check", f"mine/{file}", cwd=elsewhere)


def test_wheel_lists_what_is_homemade(installed, elsewhere):
    named = {"cwd": elsewhere, "DGBENCH_PLUGINS": "mine,own_method.py"}
    said = call(installed / "dgbench", "list", "algorithms", **named)
    assert "my_method " in said
    assert "own_method " in said
    assert "my_data " in call(installed / "dgbench", "list", "datasets", **named)


def test_wheel_trains_what_is_homemade_here_and_in_worker_processes(installed, elsewhere):
    sweep = ("train", "-m", "dataset=my_data", "protocol.num_steps=3", "protocol.evaluate_every=3")
    named = {"cwd": elsewhere, "DGBENCH_PLUGINS": "mine,own_method.py"}
    here = call(installed / "dgbench", *sweep, "algorithm=my_method", "test_domains=each", **named)
    assert "3 runs: 3 complete" in here
    keys = ("plugins=[mine,own_method.py]", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    call(installed / "dgbench", *sweep, "algorithm=own_method,erm", "test_domains=0", *keys, cwd=elsewhere)
    ranked = call(installed / "dgbench", "table", "runs", cwd=elsewhere)
    found = {name: cells[-1] for name, *cells in (line.split()[-6:] for line in ranked.splitlines() if "/3" in line)}
    assert found == {"my_method": "3/3", "own_method": "1/3", "erm": "1/3"}


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_checkout_runs_as_a_module(place, tmp_path):
    cwd = ROOT if place == "root" else tmp_path
    assert "erm " in call(sys.executable, "-m", "dgbench", "list", "algorithms", cwd=cwd)
