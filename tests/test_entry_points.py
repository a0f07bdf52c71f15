"""Components that other distributions bring."""

import subprocess
import sys

import pytest

from dgbench import plugins
from dgbench.registry import ComponentError, algorithms, datasets
from tests import homemade

METADATA = "Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n"
FILES = {
    "lab_of_ours/__init__.py": "",
    "lab_of_ours/main.py": homemade.method("Main"),
    "lab_of_ours/several.py": homemade.method("First") + "\n\nclass Second(First):\n    pass\n",
    "lab_of_ours/data.py": homemade.dataset("LabData"),
    "lab-1.0.dist-info/METADATA": METADATA,
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Installs a distribution with some entry points; returns its folder."""

    def install(text):
        homemade.write(tmp_path, {**FILES, "lab-1.0.dist-info/entry_points.txt": text})
        monkeypatch.syspath_prepend(tmp_path)
        plugins._entries.cache_clear()
        return tmp_path

    yield install
    plugins._entries.cache_clear()


def test_an_entry_point_names_a_module_or_a_class(lab):
    lab(
        "[dgbench.algorithms]\nlab_method = lab_of_ours.main\nlab_second = lab_of_ours.several:Second\n"
        "[dgbench.datasets]\nlab_data = lab_of_ours.data:LabData\n"
    )
    assert {"lab_method", "lab_second"} <= set(algorithms.names())
    assert "lab_data" in datasets
    assert [algorithms[name].__name__ for name in ("lab_method", "lab_second")] == ["Main", "Second"]
    assert datasets["lab_data"].__module__ == "lab_of_ours.data"
    assert algorithms.add(algorithms["lab_second"]) == "lab_second"


def test_the_command_lists_them_and_imports_none(lab):
    site = lab("[dgbench.algorithms]\nlab_method = lab_of_ours.main\n")
    homemade.write(site, {"lab_of_ours/__init__.py": "raise RuntimeError('imported')\n"})
    code = f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv[1:] = ['list', 'algorithms']; "
    code += "from dgbench import cli; import atexit; atexit.register(lambda: print('torch' in sys.modules)); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lab_method  " in done.stdout
    assert done.stdout.split("lab_method")[1].split("\n")[0].strip() == "A toy method."
    assert done.stdout.endswith("False\n")


def test_a_name_that_the_shelf_has_is_an_error(lab):
    lab("[dgbench.algorithms]\nerm = lab_of_ours.main\n")
    with pytest.raises(
        ValueError, match=r"Two algorithms are called 'erm': .*erm.py and .*main.py. Rename one of them"
    ):
        algorithms.names()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "gone:Class",
            r"lost = lab_of_ours.gone:Class \(dgbench.algorithms, of lab\) names a module that cannot be found. ",
        ),
        ("gone:Class", "Install lab again, or remove it."),
        (
            "main:HParams",
            "HParams in .*main.py is .*HParams.*, expected a subclass of Algorithm. Mend it, or the entry",
        ),
        ("main:Nothing", "Nothing in .*main.py is None, expected a subclass of Algorithm"),
    ],
)
def test_a_wrong_entry_point_is_answered_in_a_sentence(lab, value, said):
    lab(f"[dgbench.algorithms]\nlost = lab_of_ours.{value}\n")
    with pytest.raises(ComponentError, match=said):
        algorithms["lost"]
