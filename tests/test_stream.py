import itertools

import pytest
import torch

from dgbench.corruption import STANDARD, corrupt
from dgbench.dataset import TensorDomain
from dgbench.hparams import seed_hash
from dgbench.loader import Split
from dgbench.registry import UnknownName
from dgbench.stream import STREAMS, make_stream
from tests.toy import SIZES, splits

NAMES = ["d0", "d1", "d2"]
RISE_AND_FALL = [1, 2, 3, 4, 5, 4, 3, 2, 1]


def toy_splits(lazy=False):
    return {split.domain.name: split for split in splits(lazy)}


def pictures(n=7):
    """Domains of small images whose label k mod 3 is not their index."""
    made = {}
    for d, name in enumerate(["left", "right"]):
        x = torch.rand(2 * n, 3, 8, 8, generator=torch.Generator().manual_seed(d))
        made[name] = Split(TensorDomain(name, x, torch.arange(2 * n) % 3), torch.arange(0, 2 * n, 2))
    return made


def stream(name, batch_size=4, seed=5, lazy=False, data=None, **options):
    return make_stream(name, options, data or toy_splits(lazy), seed, batch_size)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a.visit.domain, a.visit.position, a.visit.resets) == (b.visit.domain, b.visit.position, b.visit.resets)
        for first, second in zip(a[1:], b[1:], strict=True):
            assert torch.equal(first, second)


def blocks(made):
    """(domain, round, corruption) as they follow each other, and the examples of each."""
    groups = itertools.groupby(made, lambda a: (a.visit.domain, a.visit.round, a.visit.corruption))
    return [(key, torch.cat([arrival.y for arrival in group]).tolist()) for key, group in groups]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_a_stream_is_a_function_of_data_and_seed_and_leaves_nothing_out(name, batch_size):
    options = {"families": ["contrast"]} if name == "corruption" else {}
    made = stream(name, batch_size, data=pictures(), **options)
    state = torch.get_rng_state()
    first = list(made)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert_same(first, list(made))
    assert_same(first, list(stream(name, batch_size, data=pictures(), **options)))
    assert len(first) == len(made)
    assert [arrival.visit.position for arrival in first] == list(range(len(made)))
    assert max(len(arrival.x) for arrival in first) <= batch_size
    # The order of the examples does not depend on how they are cut into batches.
    rows = torch.cat([visit.rows for visit in made.visits()])
    assert torch.equal(rows, torch.cat([v.rows for v in stream(name, 3, data=pictures(), **options).visits()]))
    assert rows.unique(dim=0).tolist() == [[d, k] for d in (0, 1) for k in range(0, 14, 2)]
    other = torch.cat([v.rows for v in stream(name, 3, seed=6, data=pictures(), **options).visits()])
    assert not torch.equal(rows, other)


@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
@pytest.mark.parametrize("name", ["online", "mixed", "correlated"])
def test_inputs_labels_and_domains_belong_together(name, lazy):
    seen = []
    for visit, x, y, domain in stream(name, lazy=lazy):
        assert x.dtype == torch.float32
        assert torch.equal(100 * x[:, 0] + x[:, 1], y.float())
        assert torch.equal(domain, x[:, 0].long())
        assert torch.equal(visit.rows, x.long())
        assert visit.domain == "mixed" if name == "mixed" else (domain == NAMES.index(visit.domain)).all()
        seen += y.tolist()
    assert sorted(seen) == sorted(100 * d + k for d, n in enumerate(SIZES) for k in range(1, 2 * n, 2))


def test_online_and_episodic_reset_and_continual_does_not():
    def resets(name, **options):
        return [(arrival.visit.domain, arrival.visit.resets) for arrival in stream(name, **options)]

    assert resets("online") == [
        *[("d0", True), ("d0", False)],
        *[("d1", True), ("d1", False), ("d1", False)],
        *[("d2", True), ("d2", False)],
    ]
    assert resets("episodic") == [(domain, True) for domain, _ in resets("online")]
    for name in ("continual", "gradual", "mixed", "correlated"):
        assert not any(reset for _, reset in resets(name))
    assert resets("correlated", resets=True) == resets("online")
    first = [visit.position for visit in stream("corruption", data=pictures(), resets=True).visits() if visit.resets]
    assert first == list(range(0, 2 * 15 * 2, 2))


def test_an_order_is_the_domains_own_whatever_the_stream():
    online = dict(blocks(stream("online")))
    assert [key for key in online] == [(name, 0, None) for name in NAMES]
    alone = make_stream("online", None, {"d1": toy_splits()["d1"]}, 5, 4)
    assert blocks(alone) == [(("d1", 0, None), online["d1", 0, None])]
    assert dict(blocks(stream("episodic"))) == online
    continual = blocks(stream("continual", rounds=3))
    assert [key for key, _ in continual] == [(name, round, None) for round in range(3) for name in NAMES]
    assert dict(continual[:3]) == online
    assert dict(continual)["d1", 1, None] != online["d1", 0, None]
    assert sorted(dict(continual)["d1", 2, None]) == sorted(online["d1", 0, None])


def test_gradual_goes_through_domains_forth_and_back_or_through_severities():
    assert [key[:2] for key, _ in blocks(stream("gradual"))] == [
        *[("d0", 0), ("d1", 0), ("d2", 0)],
        *[("d1", 1), ("d0", 1)],
    ]
    made = stream("gradual", data=pictures(), families=("fog", "snow"), num_examples=3)
    seen = blocks(made)
    assert [(key[0], *key[2]) for key, _ in seen] == [
        (name, family, severity)
        for name in ("left", "right")
        for family in ("fog", "snow")
        for severity in RISE_AND_FALL
    ]
    assert [key[1] for key, _ in seen[:9]] == [0] * 5 + [1] * 4
    assert {len(y) for _, y in seen} == {3}
    # A few examples are the same ones on the way down.
    left = [visit.rows[:, 1].tolist() for visit in itertools.islice(made.visits(), 9)]
    assert len({tuple(sorted(rows)) for rows in left}) == 1


def test_corruption_comes_family_by_family_over_the_same_examples():
    made = stream("corruption", batch_size=5, data=pictures(), severities=[3, 5])
    seen = blocks(made)
    assert [(key[0], *key[2]) for key, _ in seen] == [
        (name, family, severity) for name in ("left", "right") for family in STANDARD for severity in (3, 5)
    ]
    assert all(y == seen[0][1] for _, y in seen[:30])
    data = pictures()
    for (visit, x, _, domain), _ in zip(made, range(8), strict=False):
        family, severity = visit.corruption
        seeds = [seed_hash("corrupt", 5, "left", k, family, severity) for k in visit.rows[:, 1].tolist()]
        clean = data["left"].domain.inputs[visit.rows[:, 1]]
        assert torch.equal(x, corrupt(clean, family, severity, seeds))
        assert domain.tolist() == [0] * len(x)
    twice = blocks(stream("corruption", data=pictures(), families=["fog"], rounds=2, num_examples=1))
    assert [key[:2] for key, _ in twice] == [("left", 0), ("right", 0), ("left", 1), ("right", 1)]


def test_correlated_puts_classes_together_within_domains_or_over_all():
    def runs(**options):
        made = stream("correlated", data=pictures(60), **options)
        y = torch.cat([arrival.y for arrival in made])
        assert y.bincount().tolist() == [40, 40, 40]
        return 1 + int((y.diff() != 0).sum())

    assert runs(delta=0) in (5, 6)
    assert runs(delta=0, mixed=True) == 3
    assert runs(delta=0.1) < runs(delta=100) <= 2 * 9
    assert runs(delta=10, order="note") <= 2 * 9
    one, other = (torch.cat([a.y for a in stream("correlated", seed=seed, data=pictures(60))]) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert {arrival.visit.domain for arrival in stream("correlated", data=pictures(), mixed=True)} == {"mixed"}


def test_what_has_no_sense_is_refused():
    data = toy_splits()
    with pytest.raises(UnknownName, match=r"'onlin' is not a known stream\. Did you mean 'online'\? Known: online,"):
        stream("onlin")
    with pytest.raises(UnknownName, match="'round' is not a known option of stream continual"):
        stream("continual", round=2)
    with pytest.raises(UnknownName, match="'frost' is not a known corruption"):
        stream("gradual", families=["frost"])
    with pytest.raises(UnknownName, match="6 is not a known severity"):
        stream("corruption", severities=[6])
    with pytest.raises(UnknownName, match="'sar' is not a known order of labels"):
        stream("correlated", order="sar")
    for name, options in [
        *[("continual", {"rounds": 0}), ("corruption", {"rounds": 0})],
        *[("correlated", {"delta": -1}), ("gradual", {"num_examples": 0}), ("corruption", {"num_examples": 0})],
    ]:
        ((option, value),) = options.items()
        with pytest.raises(ValueError, match=rf"stream\.{option}={value}, expected at least"):
            stream(name, **options)
    with pytest.raises(ValueError, match="got no families or no severities"):
        stream("corruption", families=[])
    with pytest.raises(ValueError, match="batch_size=0, expected at least 1"):
        stream("online", 0)
    with pytest.raises(ValueError, match="got no domains"):
        make_stream("online", None, {}, 0, 4)
    with pytest.raises(ValueError, match="got none of d0"):
        make_stream("online", None, {**data, "d0": Split(data["d0"].domain, torch.arange(0))}, 0, 4)
    with pytest.raises(ValueError, match=r"Corruptions are for images .* shape \(4, 2\)"):
        next(iter(stream("corruption")))
    values = Split(TensorDomain("values", torch.rand(6, 2), torch.rand(6, 1)), torch.arange(6))
    with pytest.raises(ValueError, match="puts classes together, but these targets have none: stream=online"):
        list(make_stream("correlated", None, {"values": values}, 0, 4))
