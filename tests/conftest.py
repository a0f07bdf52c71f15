from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if "DGBENCH_DATA" not in os.environ:
        pytest.skip("DGBENCH_DATA is not set")
    return Path(os.environ["DGBENCH_DATA"])
