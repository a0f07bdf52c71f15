import numpy as np
import pytest

# As a module: pytest would take its `test_domain_sets` for a test.
from dgbench import protocol
from dgbench.hparams import seed_hash
from dgbench.protocol import Domains, Protocol, resolve_domains, split_indices, split_uda
from dgbench.registry import UnknownName

NAMES = ("art", "cartoon", "photo", "sketch")
SIZES = (1, 2, 7, 10, 64, 1001)


def shuffled_list(n, trial, domain):
    """As DomainBed does it: a list of Python integers, shuffled in place."""
    keys = list(range(n))
    np.random.RandomState(seed_hash(trial, domain)).shuffle(keys)
    return keys


def test_the_split_of_ten_examples_is_the_known_one():
    inside, outside = split_indices(10, 0.2, 0, 0)
    assert outside.tolist() == [2, 3]
    assert inside.tolist() == [8, 1, 4, 5, 0, 9, 6, 7]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("trial", "domain"), [(0, 0), (0, 3), (1, 0), (2, 5)])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.29])
def test_a_split_is_the_shuffled_list_cut_in_two(n, trial, domain, fraction):
    keys, held_out = shuffled_list(n, trial, domain), int(n * fraction)
    inside, outside = split_indices(n, fraction, trial, domain)
    assert outside.tolist() == keys[:held_out]
    assert inside.tolist() == keys[held_out:]
    assert sorted([*inside, *outside]) == list(range(n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9])
def test_the_unlabelled_split_is_drawn_out_of_the_in_split(n, fraction):
    inside, outside = split_indices(n, 0.2, 1, 2)
    order, num = shuffled_list(len(inside), 1, 2), int(len(inside) * fraction)
    rest, unlabeled = split_uda(inside, fraction, 1, 2)
    assert unlabeled.tolist() == [inside[k] for k in order[:num]]
    assert rest.tolist() == [inside[k] for k in order[num:]]
    assert sorted([*rest, *unlabeled, *outside]) == list(range(n))


def test_a_split_depends_on_trial_and_domain_and_on_no_global_state():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    splits = [split_indices(100, 0.2, trial, domain)[1].tolist() for trial in range(3) for domain in range(3)]
    assert np.random.rand() == expected
    assert len({tuple(split) for split in splits}) == 9
    assert split_indices(100, 0.2, 2, 2)[1].tolist() == splits[-1]


def test_every_domain_in_turn_or_the_named_ones_are_tested():
    def sets(wanted, names):
        found = protocol.domain_sets(wanted, names)
        assert all(train is None for train, _ in found)
        return [test for _, test in found]

    assert sets("each", NAMES) == [["art"], ["cartoon"], ["photo"], ["sketch"]]
    assert sets("pairs", NAMES[:3]) == [["art", "cartoon"], ["art", "photo"], ["cartoon", "photo"]]
    assert sets("photo", NAMES) == sets(2, NAMES) == sets([2], NAMES) == sets(["2"], NAMES) == [["photo"]]
    assert sets(["sketch", "art"], NAMES) == sets([3, 0, "art"], NAMES) == [["art", "sketch"]]
    with pytest.raises(UnknownName, match=r"'sketchs' is not a known domain \(test_domains\). Did you mean 'ske"):
        sets(["sketchs"], NAMES)


def test_training_on_one_domain_tests_on_all_the_others():
    assert protocol.domain_sets("each_train", NAMES[:3]) == [
        (["art"], ["cartoon", "photo"]),
        (["cartoon"], ["art", "photo"]),
        (["photo"], ["art", "cartoon"]),
    ]


def test_designated_domains_are_one_run():
    assert protocol.domain_sets("each", NAMES, (("art", "photo"), ("sketch",))) == [(["art", "photo"], ["sketch"])]
    assert protocol.domain_sets("each", NAMES, ((), ("sketch", "art"))) == [(None, ["sketch", "art"])]
    assert len(protocol.domain_sets("pairs", NAMES, (("art", "photo"), ("sketch",)))) == 6


@pytest.mark.parametrize(("wanted", "least"), [("pairs", 3), ("each_train", 2)])
def test_too_few_domains_to_leave_out_are_refused(wanted, least):
    match = rf"test_domains={wanted} needs at least {least} domains, got {', '.join(NAMES[: least - 1])}\."
    with pytest.raises(ValueError, match=match):
        protocol.domain_sets(wanted, NAMES[: least - 1])


def test_only_official_splits_let_a_domain_train_and_test():
    with pytest.raises(ValueError, match="photo stands in train_domains and in test_domains; a domain has one role"):
        resolve_domains(NAMES, ["photo"], NAMES)
    assert resolve_domains(NAMES, ["photo"], NAMES, may_share=True) == Domains(NAMES, (), ("photo",))
    with pytest.raises(ValueError, match="photo stands in val_domains and in test_domains"):
        resolve_domains(NAMES, ["photo"], NAMES[:2], ["photo"], may_share=True)


def test_domains_that_are_not_named_train():
    assert resolve_domains(NAMES, ["photo"]) == Domains(("art", "cartoon", "sketch"), (), ("photo",))
    assert resolve_domains(NAMES, [3], val=[0]) == Domains(("cartoon", "photo"), ("art",), ("sketch",))
    assert resolve_domains(NAMES, ["3"], ["photo", "art"]) == Domains(("art", "photo"), (), ("sketch",))
    assert resolve_domains(NAMES, [3], [0], [1]) == Domains(("art",), ("cartoon",), ("sketch",))


def test_an_integer_is_an_index_also_where_names_look_like_numbers():
    angles = ("rot0", "rot1", "rot2")
    assert resolve_domains(angles, ["1"]).test == resolve_domains(angles, [1]).test == ("rot1",)
    assert resolve_domains(angles, ["rot1"]).test == ("rot1",)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"test": ["fotos"]}, UnknownName, r"'fotos' is not a known domain \(test_domains\)."),
        ({"test": [0], "train": ["phot"]}, UnknownName, r"\(train_domains\). Did you mean 'photo'"),
        ({"test": [0], "val": ["skech"]}, UnknownName, r"\(val_domains\). Did you mean 'sketch'"),
        ({"test": [4]}, ValueError, "test_domains: 4 is no index of art, .*, sketch, expected 0 to 3"),
        ({"test": [-1]}, ValueError, "test_domains: -1 is no index of art"),
        ({"test": [0], "val": ["9"]}, ValueError, "val_domains: 9 is no index of art"),
        ({"test": [0], "train": [1, 0]}, ValueError, "art stands in train_domains and in test_domains; a domain"),
        ({"test": [0], "val": [0]}, ValueError, "art stands in val_domains and in test_domains"),
        ({"test": [0], "train": [1, 2], "val": [2, 1]}, ValueError, "cartoon, photo stands in train_.* val_domains"),
        ({"test": [0, 1, 2, 3]}, ValueError, r"is left to train on. Name it with train_domains=\[...\]"),
        ({"test": [0], "train": []}, ValueError, r"is left to train on. Name it with train_domains=\[...\]"),
        ({"test": []}, ValueError, r"No domain of art, cartoon, photo, sketch is left to test on. .* test_domains="),
    ],
)
def test_domains_that_cannot_be_are_refused_in_a_sentence(arguments, error, text):
    with pytest.raises(error, match=text):
        resolve_domains(NAMES, **arguments)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_steps", 0, "at least 1"),
        ("evaluate_every", 0, "at least 1"),
        ("holdout_fraction", 0.0, "between 0 and 1"),
        ("holdout_fraction", 1.0, "between 0 and 1"),
        ("uda_holdout_fraction", -0.1, "at least 0 and less than 1"),
        ("uda_holdout_fraction", 1.0, "at least 0 and less than 1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key(field, value, expected):
    with pytest.raises(ValueError, match=rf"protocol\.{field}={value}, expected {expected}"):
        Protocol(**{field: value})


def test_an_unknown_sampling_is_answered_with_the_list():
    with pytest.raises(UnknownName, match=r"'balance' is not a known sampling \(protocol.sampling\). Did you mean"):
        Protocol(sampling="balance")


def test_what_the_protocol_leaves_open_is_the_card_s():
    bare = Protocol()
    assert (bare.num_steps, bare.evaluate_every) == (None, None)
    assert (bare.holdout_fraction, bare.uda_holdout_fraction, bare.sampling) == (0.2, 0.0, "balanced")


@pytest.mark.parametrize(("every", "records"), [(100, 51), (300, 18), (1000, 6), (1, 5001), (9999, 2)])
def test_evaluations_follow_every_nth_step_and_the_last(every, records):
    schedule = Protocol(num_steps=5001, evaluate_every=every)
    steps = [step for step in range(5001) if schedule.evaluates_at(step, 5000)]
    assert steps == sorted({*range(0, 5001, every), 5000})
    assert len(steps) == records
