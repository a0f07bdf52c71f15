"""dgbench: a benchmark suite for domain generalization and test-time adaptation."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# In a checkout the four shelves lie beside `dgbench/`; a wheel ships them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

# Public functions and the modules that hold them; resolved on first use, so that `import dgbench` is instant.
_PUBLIC = {
    "train": "dgbench.api",
    "sweep": "dgbench.api",
    "load": "dgbench.trained",
    "predict": "dgbench.prediction",
    "table": "dgbench.leaderboard.tables",
    "compare": "dgbench.leaderboard.compare",
    "adapt": "dgbench.adapt_sweep",
    "adaptations": "dgbench.leaderboard.adaptation",
    "build_algorithm": "dgbench.algorithm",
    "build_adapter": "dgbench.adapter",
    "check_adapter": "dgbench.check",
    "check_algorithm": "dgbench.check",
    "check_dataset": "dgbench.check",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dgbench' has no attribute {name!r}")
