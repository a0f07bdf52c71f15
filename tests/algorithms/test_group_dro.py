import math
import sys

import pytest
import torch

from dgbench.hparams import draw
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    domainbed_generator,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def objective(eta: float, D: int):
    """Sagawa et al. 2020, algorithm 1, without adjustments: q grows before it is used."""
    q = [1.0] * D

    def loss(weights, batch, step):
        total = torch.zeros((), dtype=torch.float64)
        risks = example_losses(mlp(weights, batch.x)[1], batch.y).mean(1)
        domains = batch.domain[:, 0].tolist()
        for domain, risk in zip(domains, risks.tolist(), strict=True):
            q[domain] *= math.exp(eta * risk)
        q[:] = [each / sum(q) for each in q]
        for domain, risk in zip(domains, risks, strict=True):
            total = total + q[domain] * risk
        return total

    return loss


def some_domains(batches, rows):
    """Of each batch, the domains that are named for it."""
    return [type(b)(*(part[r] for part in b[:3])) for b, r in zip(batches, rows, strict=True)]


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_after_three_steps(kind, D):
    dro = make("group_dro", {"eta": 0.7}, kind, D)
    batches, start = random_batches(3, kind, D), weights_of(dro)
    assert_weights(train(dro, batches), adam_steps(start, batches, objective(0.7, D)))
    assert dro.step == 3
    assert differs(dro, adam_steps(start, batches, objective(0.0, D))) == (D > 1)


def test_a_batch_of_some_domains():
    dro = make("group_dro", {"eta": 0.7}, D=4)
    rows = [[3, 1], [0, 2], [1, 0], [2, 3]]
    batches, start = some_domains(random_batches(4, D=4), rows), weights_of(dro)
    assert_weights(train(dro, batches), adam_steps(start, batches, objective(0.7, 4)))
    shuffled = [batch._replace(domain=random_batches(1, D=2)[0].domain) for batch in batches]
    assert differs(dro, adam_steps(start, shuffled, objective(0.7, 4)))


def test_loss_and_weights_of_one_step():
    dro, (batch,) = make("group_dro", {"eta": 0.7}), random_batches(1)
    risk = example_losses(mlp(weights_of(dro), batch.x)[1], batch.y).mean(1)
    values = dro.loss(batch)
    q = (0.7 * risk).exp() / (0.7 * risk).exp().sum()
    torch.testing.assert_close(dro.q, q)
    expected = {"loss": (q * risk).sum(), "nll": risk.mean(), "worst_nll": risk.max()}
    torch.testing.assert_close(values, expected)
    assert values["loss"] > values["nll"]


def test_without_growth_it_is_erm():
    dro, batches = make("group_dro", {"eta": 0.0}), random_batches(3)
    assert_weights(train(dro, batches), adam_steps(weights_of(make("erm")), batches, erm_loss))


def test_equal_risks_weigh_the_same():
    dro, (batch,) = make("group_dro", {"eta": 0.7}), random_batches(1, D=1)
    batch = type(batch)(batch.x.repeat(3, 1, 1), batch.y.repeat(3, 1), torch.arange(3).unsqueeze(1).repeat(1, 6))
    torch.testing.assert_close(dro.loss(batch)["loss"], dro.loss(batch)["nll"])
    torch.testing.assert_close(dro.q, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_q_goes_with_the_checkpoint():
    dro, batches = make("group_dro", {"eta": 0.7}), random_batches(2)
    train(dro, batches)
    fresh = make("group_dro", {"eta": 0.7}, seed=1)
    fresh.load_state_dict(dro.state_dict())
    assert torch.equal(fresh.q, dro.q)
    assert (fresh.q - 1 / 3).abs().max() > 0.01


def test_evaluation_leaves_q_alone():
    dro, (batch,) = make("group_dro", {"eta": 0.7}), random_batches(1)
    before = dro.q.clone()
    dro.eval().loss(batch)
    assert torch.equal(dro.q, before)


def test_growth_does_not_overflow():
    raised = sys.modules[type(make("group_dro")).__module__].raised
    q = raised(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0, 2]), torch.tensor([4000.0, 4000 + math.log(4)]))
    torch.testing.assert_close(q, torch.tensor([1 / 3, 0.0, 2 / 3]), rtol=1e-3, atol=1e-6)


def test_draw_is_domainbeds():
    drawn = draw(type(make("group_dro")).HParams, 1, 0)
    assert drawn.eta == 10 ** domainbed_generator("groupdro_eta").uniform(-3, -1)
