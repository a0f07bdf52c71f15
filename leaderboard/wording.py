"""What all checks of a submission say in the same words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ANEW = "Write the file anew with `dgbench submit`."


def about(one: Mapping[str, Any]) -> str:
    """A result, a mean or a cell: what of its criterion, dataset, column and trial it has.

    >>> about({"criterion": "oracle", "dataset": "pacs", "test_domain": "art", "trial_seed": 2, "data_seed": 0})
    'oracle / pacs / art / trial 2'
    """
    words = [one[key] for key in ("criterion", "dataset", "test_domain", "column") if key in one]
    words += [f"trial {one['trial_seed']}"] if "trial_seed" in one else []
    # What is not drawn has data_seed -1, and most have but the draw 0.
    words += [f"data_seed {one['data_seed']}"] if one.get("data_seed", 0) > 0 else []
    return " / ".join(words)


def written(value: Any) -> str:
    """A value as JSON, by which values of different types differ: 500 and 500.0, 1 and true, 0.0 and -0.0."""
    return json.dumps(value, sort_keys=True)
