import math

import pytest
import torch
from torch import nn

from dgbench.normalisation import InstanceAwareBatchNorm2d, Normalise


def test_normalise():
    normalise, x = Normalise((7,)), torch.randn(50, 7) * 3 + 2
    assert torch.equal(normalise(x), x)
    x[:, 0] = 5
    normalise.fit(x)
    z = normalise(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.tensor([0.0, *[1.0] * 6]))


def test_normalise_images():
    normalise, x = Normalise((3, 4, 4)), torch.rand(5, 3, 4, 4)
    normalise.fit(x)
    assert normalise.mean.shape == (3, 1, 1)
    torch.testing.assert_close(normalise(x).mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def iabn(k):
    torch.manual_seed(0)
    norm, plain = InstanceAwareBatchNorm2d(5, k=k).double(), nn.BatchNorm2d(5).double()
    state = {
        "weight": torch.rand(5),
        "bias": torch.rand(5),
        "running_mean": torch.rand(5),
        "running_var": torch.rand(5),
    }
    for module in (norm, plain):
        module.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})
    return norm, plain, torch.randn(4, 5, 6, 3, dtype=torch.float64) * 2 + 1


def test_iabn_limits():
    norm, plain, x = iabn(math.inf)
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x))
    norm, plain, x = iabn(0)
    var, mean = torch.var_mean(x, (2, 3), keepdim=True)
    weight, bias = plain.weight[:, None, None], plain.bias[:, None, None]
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(x), (x - mean) / (var + norm.eps).sqrt() * weight + bias)


def test_iabn_of_one_pixel_is_batch_norm():
    norm, plain, x = iabn(4)
    torch.testing.assert_close(norm.eval()(x[:, :, :1, :1]), plain.eval()(x[:, :, :1, :1]))


def test_iabn_trains_as_batch_norm():
    norm, plain, x = iabn(4)
    norm(x), plain(x)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)
    with pytest.raises(ValueError, match="needs more than one value per channel to train, got one"):
        norm(x[:1, :, :1, :1])


def test_iabn_by_hand():
    # Batch statistics 0 and 1, 4 pixels of mean 5 and unbiased variance 4: margins are 2 and 3.27.
    norm = InstanceAwareBatchNorm2d(1, k=4.0, eps=0.0).double().eval()
    x = 5 + torch.tensor([1.0, 1, -1, -1], dtype=torch.float64).mul(3**0.5).view(1, 1, 2, 2)
    expected = (x - (5 - 2)) / (1 + max(3 - 4 * (2 / 3) ** 0.5, 0)) ** 0.5
    torch.testing.assert_close(norm(x), expected)
