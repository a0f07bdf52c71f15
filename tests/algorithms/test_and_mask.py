import importlib

import pytest
import torch

from dgbench.hparams import Optim, draw
from tests.algorithms.gradient_reference import freeze_first_layer, masked_steps, sign
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    domainbed_generator,
    erm_loss,
    make,
    random_batches,
    train,
    weights_of,
)

core = importlib.import_module("dgbench.algorithms.gradient._domain_gradients")


def and_mask(tau: float):
    """Parascandolo et al. 2021: the components where at least the share tau of the signs' mean agrees."""
    return lambda column: float(abs(sum(map(sign, column))) / len(column) >= tau)


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_weights_after_three_steps(kind, tau):
    method, batches = make("and_mask", {"tau": tau}, kind, D=5), random_batches(3, kind, D=5)
    start = weights_of(method)
    torch.testing.assert_close(method.loss(batches[0])["loss"], erm_loss(start, batches[0]))
    assert_weights(train(method, batches), masked_steps(start, batches, and_mask(tau)))
    assert method.step == 3
    assert differs(method, adam_steps(start, batches, erm_loss))
    assert differs(method, masked_steps(start, batches, and_mask(1.6 - tau)))


def test_of_plain_gradient_steps_the_share_kept_matters():
    sgd = Optim(lr=0.01, optimizer="sgd")
    method, (batch,) = make("and_mask", {"tau": 1.0}, depth=0, optim=sgd), random_batches(1)
    W, b = (w.requires_grad_() for w in weights_of(method))
    risks = [erm_loss([W, b], batch._replace(x=batch.x[d : d + 1], y=batch.y[d : d + 1])) for d in range(3)]
    g = torch.stack([torch.autograd.grad(risk, W, retain_graph=True)[0] for risk in risks])
    agree = (g > 0).all(0) | (g < 0).all(0)
    expected = W - 0.01 * torch.where(agree, g.mean(0), 0) * agree.numel() / agree.sum()
    assert 0 < agree.sum() < agree.numel()
    torch.testing.assert_close(weights_of(train(method, [batch]))[0], expected.detach())


@pytest.mark.parametrize(("hparams", "D"), [({"tau": 0.0}, 3), ({"tau": 1.0}, 1)], ids=["tau 0", "one domain"])
def test_what_masks_nothing_is_erm(hparams, D):
    # Without a hidden layer no gradient of one domain is exactly zero.
    method, batches = make("and_mask", hparams, D=D, depth=0), random_batches(3, D=D)
    expected = adam_steps(weights_of(method), batches, erm_loss)
    assert_weights(train(method, batches), expected)


def test_equal_domains_are_erm():
    method, batches = make("and_mask", depth=0), random_batches(3, D=1)
    batches = [type(b)(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in b[:3])) for b in batches]
    expected = adam_steps(weights_of(method), batches, erm_loss)
    assert_weights(train(method, batches), expected)


def test_opposite_gradients_train_nothing():
    method, (batch,) = make("and_mask", {"tau": 0.5}, "regression", D=2, depth=0), random_batches(1, "regression", D=2)
    start = weights_of(method)
    # y is in units of a shift of 5 and scales of 1 to 4: its mirror image in the answer is 10 + 2 * scale * answer - y.
    answer = (batch.x[0] @ start[0].T + start[1]) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    mirrored = torch.stack([batch.y[0], 2 * answer - batch.y[0]])
    train(method, [batch._replace(x=batch.x[:1].repeat(2, 1, 1), y=mirrored)])
    for old, new in zip(start, weights_of(method), strict=True):
        assert torch.equal(old, new)


def test_a_frozen_layer_stays():
    method, batches = freeze_first_layer(make("and_mask", {"tau": 0.6})), random_batches(3)
    expected = masked_steps(weights_of(method), batches, and_mask(0.6), frozen=2)
    assert_weights(train(method, batches), expected)


def test_rounding_does_not_hide_that_all_agree():
    mask = make("and_mask", {"tau": 1.0}).mask
    for D in range(1, 200):
        assert mask(torch.full((D, 2), -1e-30)).tolist() == [1, 1]
        assert mask(torch.arange(D).float().unsqueeze(1)).tolist() == [0]


def test_gradients_of_domains_that_use_different_parameters():
    w, v, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    grads = core.domain_gradients(torch.stack([w.sum(), (w * v).sum() * 2]), [w, v, unused], create_graph=True)
    assert grads[0].tolist() == [[1, 1], [2, 2]]
    assert grads[1].tolist() == [[0, 0], [2, 2]]
    assert grads[2] is None
    assert torch.autograd.grad(grads[1].sum(), w)[0].tolist() == [2, 2]


@pytest.mark.parametrize("tau", [-0.1, 1.5, float("nan")])
def test_an_impossible_threshold_is_refused(tau):
    with pytest.raises(ValueError, match=rf"tau={tau}, expected 0 to 1"):
        make("and_mask", {"tau": tau})


def test_a_method_must_say_what_to_keep():
    with pytest.raises(TypeError, match=r"Masked does not say what to keep: define mask\(grads\)"):
        core.Masked.mask(core.Masked.__new__(core.Masked), torch.ones(1))


def test_draw_is_domainbeds():
    assert draw(type(make("and_mask")).HParams, 1, 0).tau == domainbed_generator("tau").uniform(0.5, 1)
