"""What a stream has to say, and what it refuses."""

import math

import pytest

from dgbench.keys import typed
from dgbench.stream import STREAMS, make_stream
from dgbench.visit import Stream
from tests.toy import splits

SPLITS = {split.domain.name: split for split in splits(False)}


class Silent(Stream):
    """Does not say what comes after what."""


def test_a_stream_without_blocks_says_so():
    silent = Silent(Silent.Options(), SPLITS, seed=0, batch_size=4)
    text = r"Silent does not say what comes after what: define blocks\(\)\."
    for use in (len, list, lambda made: list(made.visits())):
        with pytest.raises(TypeError, match=text):
            use(silent)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_options_that_are_not_finite_are_refused_from_python_and_from_the_command(value):
    text = rf"stream\.delta={value}, expected a finite number\. Set it to one, or leave it out"
    with pytest.raises(ValueError, match=text):
        make_stream("correlated", {"delta": value}, SPLITS, 0, 4)
    with pytest.raises(ValueError, match=text):
        make_stream("correlated", STREAMS["correlated"].Options(delta=value), SPLITS, 0, 4)
    with pytest.raises(ValueError, match=text):
        typed(STREAMS["correlated"].Options, {"delta": value}, "stream.")
