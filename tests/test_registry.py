import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench import registry
from dgbench.registry import ComponentError, Registry, UnknownName

ROOT = Path(dgbench.__file__).parents[1]
SHELVES = {"algorithms": registry.algorithms, "datasets": registry.datasets, "adapters": registry.adapters}
# Adapters are a family of the algorithms' folder.
TEST_TIME = ROOT / "algorithms" / "test_time"
# What takes seconds to import, and what only a run needs.
HEAVY = {"torch", "pytorch_lightning", "torchmetrics", "torchvision", "timm", "polars", "numpy", "scipy", "hydra"}

THING = "from registry_base import Base\n\n\nclass {name}(Base):\n    pass\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Makes a shelf of files; returns the registry that reads it."""
    before = set(sys.modules)

    def make(files: dict[str, str], **options) -> Registry:
        (tmp_path / "registry_base.py").write_text("class Base:\n    pass\n")
        for name, text in files.items():
            path = tmp_path / "shelf_package" / "things" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return Registry("thing", "shelf_package.things", "registry_base:Base", **options)

    yield make
    for name in set(sys.modules) - before:
        if name.startswith(("shelf_package", "registry_base")):
            del sys.modules[name]


@pytest.mark.parametrize("arguments", [["--help"], *(["list", shelf] for shelf in SHELVES)], ids=" ".join)
def test_the_command_answers_without_importing_what_only_a_run_needs(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "dgbench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "dgbench.registry" in imported
    assert not imported & HEAVY
    assert not [m for m in imported if m.startswith(("dgbench.algorithms.", "dgbench.datasets."))]
    for name in SHELVES[arguments[1]].names() if arguments[1:] else ["train", "list"]:
        assert name in done.stdout


def test_listing_names_imports_no_component(shelf):
    things = shelf({"one.py": "raise RuntimeError('imported')\n", "two.py": "this is no Python\n"})
    assert things.names() == ["one", "two"]
    assert "one" in things
    assert "three" not in things


@pytest.mark.parametrize("kind", SHELVES)
def test_names_are_those_of_the_files_and_unique(kind):
    is_adapters = kind == "adapters"
    files = (ROOT / ("algorithms" if is_adapters else kind)).rglob("*.py")
    stems = [p.stem for p in files if not p.stem.startswith("_") and (TEST_TIME in p.parents) == is_adapters]
    assert SHELVES[kind].names() == sorted(stems)
    assert len(set(stems)) == len(stems) > 0


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SHELVES for name in SHELVES[kind].names()])
def test_a_component_is_the_class_of_the_file_of_its_name(kind, name):
    place = SHELVES[kind].place(name)
    component = SHELVES[kind][name]
    assert place.path.stem == name
    assert component.__module__ == place.module
    assert Path(sys.modules[place.module].__file__ or "") == place.path
    assert place.module.split(".")[2:-1] == ([place.family] if place.family else [])


def test_a_place_knows_its_family(shelf):
    things = shelf({"risk/irm.py": "", "erm.py": ""})
    assert things.place("irm").family == "risk"
    assert things.place("erm").family == ""


def test_files_and_folders_with_an_underscore_or_a_dot_are_hidden(shelf):
    files = ("a.py", "_b.py", "__init__.py", "family/c.py", "family/_d.py", "_hidden/e.py", ".dot/f.py", "g.txt")
    things = shelf(dict.fromkeys(files, ""))
    assert things.names() == ["a", "c"]
    assert things.place("c").module == "shelf_package.things.family.c"


def test_a_kind_may_be_one_sub_folder_or_all_others(shelf):
    files = dict.fromkeys(["top.py", "own/a.py", "other/b.py"], "")
    assert shelf(files, only="own").names() == ["a"]
    assert shelf(files, without=("own",)).names() == ["b", "top"]


def test_a_shelf_that_does_not_exist_is_empty():
    assert Registry("thing", "dgbench.no_such_shelf", "dgbench.registry:Registry").names() == []


def test_an_unknown_name_is_answered_with_a_suggestion_and_the_list(shelf):
    things = shelf({"vrex.py": "", "erm.py": ""})
    with pytest.raises(UnknownName) as caught:
        things["vrexx"]
    remedy = " One of your own is named by plugins=[folder or file] or the environment variable DGBENCH_PLUGINS; "
    remedy += "a class by registry.things.add(cls)."
    assert str(caught.value) == "'vrexx' is not a known thing. Did you mean 'vrex'? Known: erm, vrex." + remedy
    with pytest.raises(UnknownName) as caught:
        things.place("something_else")
    assert str(caught.value) == "'something_else' is not a known thing. Known: erm, vrex." + remedy
    assert str(UnknownName("thing", 3, [])) == "3 is not a known thing. Known: none."
    assert isinstance(caught.value, LookupError)


def test_two_files_of_one_name_are_an_error_that_names_both(shelf, tmp_path):
    things = shelf({"one/twin.py": "", "two/twin.py": ""})
    folder = tmp_path / "shelf_package" / "things"
    with pytest.raises(ValueError, match=r"Two things are called 'twin': .* Rename one of them") as caught:
        things.names()
    assert str(folder / "one" / "twin.py") in str(caught.value)
    assert str(folder / "two" / "twin.py") in str(caught.value)


def test_looking_a_name_up_imports_that_file_alone(shelf):
    things = shelf({"good.py": THING.format(name="Good"), "bad.py": "raise RuntimeError('imported')\n"})
    assert things["good"].__name__ == "Good"
    assert things["good"] is things["good"]


def test_helpers_with_an_underscore_and_imported_classes_are_no_components(shelf):
    helper = THING.format(name="Good") + "\n\nclass _Helper(Good):\n    pass\n"
    borrowing = "from shelf_package.things.good import Good\n\n\nclass Better(Good):\n    pass\n"
    things = shelf({"good.py": helper, "better.py": borrowing})
    assert things["good"].__name__ == "Good"
    assert things["better"].__name__ == "Better"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (THING.format(name="A") + "\n\nclass B(Base):\n    pass\n", r"2 public Base classes \(A, B\)"),
        ("from registry_base import Base\n", r"0 public Base classes \(none\)"),
        ("class Unrelated:\n    pass\n", r"0 public Base classes \(none\)"),
    ],
    ids=["two", "only imported", "no component"],
)
def test_a_file_holds_exactly_one_public_component(shelf, text, found):
    match = f"shelf_package.things.wrong holds {found}, expected exactly one. Give helpers a leading underscore"
    with pytest.raises(ComponentError, match=match):
        shelf({"wrong.py": text})["wrong"]


def test_a_second_name_for_the_same_class_is_no_second_component(shelf):
    assert shelf({"a.py": THING.format(name="A") + "\n\nAlias = A\n"})["a"].__name__ == "A"


def test_a_missing_package_is_named_with_the_line_that_installs_it(shelf):
    things = shelf({"needy.py": "import no_such_package.inside\n"})
    text = r"The thing 'needy' \(.*needy.py\) needs the package 'no_such_package', which is not installed. "
    with pytest.raises(ComponentError, match=text + "Install it: pip install no_such_package$") as caught:
        things["needy"]
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_missing_module_of_the_shelf_itself_is_no_package_to_install(shelf):
    things = shelf({"needy.py": "from ._gone import what\n"})
    with pytest.raises(ModuleNotFoundError, match=r"_gone") as caught:
        things["needy"]
    assert "pip install" not in str(caught.value)


def test_a_class_of_the_process_becomes_a_component(shelf):
    files = {"good.py": THING.format(name="Good"), "../one_of_mine.py": THING.format(name="OfMine")}
    things = shelf(files)
    base: Any = things.base_class
    assert things.add(things["good"]) == "good"
    alone = import_module("shelf_package.one_of_mine").OfMine
    assert things.add(alone) == "one_of_mine"

    class MyVRExTwo(base):
        pass

    assert things.add(MyVRExTwo) == "my_vr_ex_two"
    assert things.names() == ["good", "my_vr_ex_two", "one_of_mine"]
    assert things["my_vr_ex_two"] is MyVRExTwo
    assert things.place("one_of_mine").path.name == "one_of_mine.py"
    assert things.add(alone) == "one_of_mine"


def test_a_cell_of_a_notebook_that_runs_again_replaces_its_class(shelf):
    things = shelf({"good.py": THING.format(name="Good")})
    cell = "class Mine(base):\n    number = {}\n"
    for number in (1, 2):
        names = {"base": things.base_class, "__name__": "some_notebook"}
        exec(cell.format(number), names)
        assert things.add(names["Mine"]) == "mine"
        assert things["mine"].number == number
    assert str(things.place("mine").path) == "<class some_notebook.Mine>"
    names = {"base": things.base_class, "__name__": "another_notebook"}
    exec(cell.format(3), names)
    text = "Two things are called 'mine': <class some_notebook.Mine> and <class another_notebook.Mine>. Rename one"
    with pytest.raises(ValueError, match=text):
        things.add(names["Mine"])
    assert things["mine"].number == 2


def test_a_class_whose_name_is_taken_or_of_another_kind_is_refused(shelf):
    things = shelf({"good.py": THING.format(name="Good")})
    base: Any = things.base_class

    class Good(base):
        pass

    with pytest.raises(ValueError, match=r"Two things are called 'good': .*good.py and .*test_registry.py. Rename one"):
        things.add(Good)
    assert things["good"] is not Good
    for wrong in (dict, "good"):
        with pytest.raises(TypeError, match=r"is no Base, expected a subclass or a name\. Inherit"):
            things.add(wrong)
