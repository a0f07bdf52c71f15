"""Whether a submission's results and aggregates follow from its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .bounded import shown
from .wording import ANEW, about

# Sums of the same numbers in another order.
CLOSE = 1e-9
RESULT_KEY = ("criterion", "dataset", "test_domain", "trial_seed", "data_seed")
AGGREGATE_KEY = ("criterion", "dataset", "column")
Said = Mapping[str, Any]


def follows(place: str, keys: Sequence[str], got: Sequence[Said], expected: Sequence[Said]) -> Iterator[str]:
    """Whether two lists say the same of the same keys, in the same order.

    Args:
        place: of the list, as JSON path.
        keys: what an entry is about.
        got: as the submission has it.
        expected: as it follows from the rows, sorted by `keys`.
    """
    amiss = list(_entries(place, keys, got, expected))
    yield from amiss
    for index, (one, other) in enumerate(zip(got, expected, strict=False)):
        if not amiss and any(one[key] != other[key] for key in keys):
            yield (
                f"{place}[{index}]: got {about(one)}, expected {about(other)}, as entries are "
                f"sorted by {', '.join(keys)}. {ANEW}"
            )
            return


def _entries(place: str, keys: Sequence[str], got: Sequence[Said], expected: Sequence[Said]) -> Iterator[str]:
    rest = {tuple(one[key] for key in keys): one for one in expected}
    seen = set()
    for index, one in enumerate(got):
        key = tuple(one[name] for name in keys)
        if key in seen:
            yield f"{place}[{index}]: got {about(one)} twice, expected it once. {ANEW}"
        elif key not in rest:
            yield f"{place}[{index}]: got {about(one)}, which no row is about, expected it left out. {ANEW}"
        else:
            for name, value in rest[key].items():
                if not _same(one[name], value):
                    yield (
                        f"{place}[{index}].{name}: got {shown(one[name])} for {about(one)}, expected {shown(value)}, "
                        f"which follows from the rows. {ANEW}"
                    )
        seen.add(key)
    for key, one in rest.items():
        if key not in seen:
            yield f"{place}: {about(one)} is missing, expected an entry, as there are rows for it. {ANEW}"


def _same(got: Any, expected: Any) -> bool:
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(got == expected)
