"""What README.md tells a reader to type works, in the order of the page, in an empty folder.

Commands are the lines of ```sh, ```bash and ```console blocks: those after `$ `, or, in a block without prompts, all.
What installs (git clone, cd, pip, make test ...) is left out, and a block that names DGBENCH_DATA or data_dir is left
out where DGBENCH_DATA is not set. The demo is stood in for by a short sweep. A ```python block runs as a script; if its
first line is a comment like `# algorithms/mine.py`, it is first saved there for the commands that follow.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^( *)```(sh|bash|console|python)[^\n]*\n(.*?)^\1```$", re.M | re.S)
INSTALLS = re.compile(
    r"(make|cd|git clone|(source|\.) \S*activate|(uv )?pip3? install|uv venv|pre-commit)(\s|$)"
    r"|\S*python[\d.]* -m (pip|venv)\s|export DGBENCH_DATA="
)
DEMO = re.compile(r"(make|dgbench|\S*python[\d.]* -m dgbench) demo$")
STAND_IN = (
    "dgbench train -m algorithm=erm,vrex test_domains=rot0,rot75 trial_seed=range\\(2\\)"
    " protocol.num_steps=20 runs_dir=runs/demo"
)


class Step(NamedTuple):
    text: str
    is_python: bool
    needs_data: bool


def steps(page):
    """What a reader of the page runs, in order."""
    for indent, language, body in BLOCK.findall(page):
        text = re.sub(rf"^{indent}", "", body, flags=re.M)
        needs_data = bool(re.search("DGBENCH_DATA|data_dir", text))
        if language == "python":
            yield Step(text, True, needs_data)
            continue
        for command in commands(text):
            if DEMO.match(command):
                yield Step(STAND_IN, False, needs_data)
            elif not INSTALLS.match(command):
                yield Step(command, False, needs_data)


def commands(text):
    """The commands of a block; one that goes on over several lines stays whole."""
    lines = iter(text.splitlines())
    prompts = bool(re.search(r"^\$ ", text, re.M))
    for line in lines:
        if not line.strip() or line.startswith("#") or (prompts and not line.startswith("$ ")):
            continue
        command = line.removeprefix("$ ")
        while command.endswith("\\"):
            command += "\n" + next(lines).removeprefix("> ")
        if here := re.search(r"<<-?\s*['\"]?(\w+)", command):
            for line in lines:
                command += "\n" + line
                if line.strip() == here[1]:
                    break
        yield re.sub(r"\s+#.*$", "", command) if "\n" not in command else command


def run(step, folder):
    """Run one step.

    Raises:
        AssertionError: it fails; with all that it printed.
    """
    command = ["bash", "-euo", "pipefail", "-c", step.text]
    if step.is_python:
        name = re.match(r"# (\S+\.py)\s*$", step.text.split("\n")[0])
        path = folder / (name[1] if name else "block.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text, "utf-8")
        command = [sys.executable, str(path)]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    assert done.returncode == 0, f"README.md: exit code {done.returncode} from\n{step.text}\n\n{done.stdout}"


def test_readme_works(tmp_path):
    path = ROOT / "README.md"
    page = path.read_text("utf-8") if path.is_file() else ""
    found = list(steps(page))
    assert found, f"{path} is missing or has no block of ```sh, ```console or ```python to run."
    for step in found:
        if not step.needs_data or os.environ.get("DGBENCH_DATA"):
            run(step, tmp_path)


PAGE = """
```sh
git clone somewhere dgbench && cd dgbench
python3.11 -m pip install -e .
make demo      # two minutes
make test
```

1. Indented:

   ```console
   $ dgbench list algorithms
   erm   $ no command
   $ dgbench train -m \\
   >   algorithm=erm
   ```

```bash
export DGBENCH_DATA=/data
# a comment
dgbench train dataset=pacs  # another
```

```text
not this
```

```python
# mine/here.py
x = 1
```

```sh
cat > file <<'EOF'
make x
EOF
cat file
```
"""


def test_steps_of_a_page():
    assert list(steps(PAGE)) == [
        (STAND_IN, False, False),
        ("dgbench list algorithms", False, False),
        ("dgbench train -m \\\n  algorithm=erm", False, False),
        ("dgbench train dataset=pacs", False, True),
        ("# mine/here.py\nx = 1\n", True, False),
        ("cat > file <<'EOF'\nmake x\nEOF", False, False),
        ("cat file", False, False),
    ]


def test_steps_share_a_folder(tmp_path):
    run(Step("# mine/here.py\nprint(__file__)\n", True, False), tmp_path)
    run(Step("test -f mine/here.py && command -v dgbench", False, False), tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)exit code 3 from.*echo hello; exit 3.*hello"):
        run(Step("echo hello; exit 3", False, False), tmp_path)
