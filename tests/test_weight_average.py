import pytest
import torch

from dgbench.weight_average import accumulate


def test_mean_of_a_path():
    path = [torch.randn(3, 2, dtype=torch.float64) for _ in range(7)]
    average = torch.full((3, 2), torch.nan, dtype=torch.float64)
    for count, value in enumerate(path):
        accumulate([average], [value], count)
        torch.testing.assert_close(average, sum(path[: count + 1]) / (count + 1))


def test_the_first_and_equal_values_are_taken_bit_for_bit():
    value, average = torch.randn(50), torch.full((50,), torch.inf)
    for count in range(20):
        accumulate([average], [value], count)
        assert torch.equal(average, value)


def test_integers_are_copied_and_the_precision_is_the_averages():
    average = [torch.tensor(1), torch.zeros(1, dtype=torch.float64)]
    accumulate(average, [torch.tensor(8), torch.ones(1)], count=2)
    assert average == [torch.tensor(8), torch.tensor([1 / 3], dtype=torch.float64)]
    accumulate([], [], count=2)


def test_parameters_are_averaged_without_a_graph():
    average, value = (torch.nn.Parameter(torch.tensor([x])) for x in (1.0, 3.0))
    accumulate([average], [value], count=1)
    assert average.item() == 2
    assert average.grad_fn is None
    assert value.item() == 3


def test_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        accumulate([torch.zeros(1)], [], count=1)
