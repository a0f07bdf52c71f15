import functools
import sys

import numpy as np
import pytest
import torch

from dgbench.batch import Batch
from dgbench.registry import algorithms
from dgbench.workbench import Workbench
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def trm(hparams=None, *arguments, **keywords):
    return make("trm", {"erm_steps": 1, "eta": 0.5, "matching_weight": 0.5} | (hparams or {}), *arguments, **keywords)


def series(H, v, num_terms):
    """v + (I - H) v + ... in numpy, ended where an entry exceeds 10."""
    term = total = v
    for _ in range(num_terms):
        if term is not v and np.abs(total).max() > 10:
            break
        term = term - H @ term
        total = total + term
    return total


class Reference:
    """Xu and Jaakkola 2021 as in their code, domain after domain, the head's bias treated as its weight."""

    def __init__(self, trm):
        self.heads, self.alpha, self.hp = trm.heads.clone(), trm.alpha.clone(), trm.hp

    def risk(self, head, features, y):
        return example_losses(features @ head[:, :-1].T + head[:, -1], y).mean()

    def objective(self, weights, batch, step):
        loss, D = erm_loss(weights, batch), len(batch.x)
        if step < self.hp.erm_steps:
            return loss
        features, y, domain = mlp(weights, batch.x)[0], batch.y, batch.domain[:, 0].tolist()
        grown = self.alpha.clone()
        for q, Q in enumerate(domain):
            head, lr = self.heads[Q].clone().requires_grad_(), self.hp.head_lr
            if y.is_floating_point():
                lr = min(lr, 4 / 2 / float(1 + (features[q].detach() ** 2).sum(1).mean()))
            for _ in range(self.hp.head_steps):
                (grad,) = torch.autograd.grad(self.risk(head, features[q].detach(), y[q]), head)
                head.data -= lr * grad
            self.heads[Q] = head.detach()
            transfer = torch.zeros(())
            for p, P in enumerate(domain):
                if p != q:
                    weighted = self.alpha[Q, P] * self.risk(head, features[p], y[p])
                    transfer = transfer + weighted
                    grown[Q, P] *= (self.hp.eta * weighted.detach()).exp()
            (grad_P,) = torch.autograd.grad(transfer, head, retain_graph=True)
            (grad_Q,) = torch.autograd.grad(self.risk(head, features[q], y[q]), head, create_graph=True)
            own = functools.partial(self.risk, features=features[q].detach(), y=y[q])
            H = torch.autograd.functional.hessian(own, head.detach())
            H = H.reshape(head.numel(), head.numel()).numpy()
            solved = torch.tensor(series(H, grad_P.flatten().numpy(), self.hp.num_terms)).view(head.shape)
            loss = loss + (transfer - self.hp.matching_weight * (solved * grad_Q).sum()) / D
        self.alpha = grown / grown.sum(1, keepdim=True)
        return loss


@KINDS
@pytest.mark.parametrize("D", [2, 3, 5])
def test_losses_weights_heads_and_alpha(kind, D):
    method, batches = trm({"head_steps": 4}, kind, D), random_batches(4, kind, D)
    start, reference = weights_of(method), Reference(method)
    expected = adam_steps(start, batches, reference.objective)
    without = Reference(method)
    without.hp = type(method.hp)(erm_steps=1, eta=0.5, matching_weight=0.0, head_steps=4)
    assert_weights(train(method, batches), expected)
    torch.testing.assert_close((method.heads, method.alpha), (reference.heads, reference.alpha))
    assert differs(method, adam_steps(start, batches, erm_loss))
    assert differs(method, adam_steps(start, batches, without.objective), by=1e-6)
    assert method.step == 4


def test_loss_of_a_step():
    method, (batch,) = trm({"erm_steps": 0}), random_batches(1)
    reference = Reference(method)
    values = method.loss(batch)
    torch.testing.assert_close(values["loss"], reference.objective(weights_of(method), batch, 0))
    torch.testing.assert_close(values["nll"], erm_loss(weights_of(method), batch))
    values["loss"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_until_erm_steps_it_is_erm():
    method, erm, batches = trm({"erm_steps": 3}), make("erm"), random_batches(3)
    heads = method.heads.clone()
    train(method, batches), train(erm, batches)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(method), weights_of(erm), strict=True))
    assert torch.equal(method.heads, heads)


def test_a_batch_of_some_domains_leaves_the_others():
    method, (batch,) = trm({"erm_steps": 0}, D=5), random_batches(1, D=3)
    batch = batch._replace(domain=torch.tensor([4, 0, 2]).unsqueeze(1).repeat(1, 6))
    start, reference = weights_of(method), Reference(method)
    before, (heads, alpha) = method.heads.clone(), (method.heads, method.alpha)
    assert_weights(train(method, [batch]), adam_steps(start, [batch], reference.objective))
    torch.testing.assert_close((heads, alpha), (reference.heads, reference.alpha))
    changed = [bool((a != b).any()) for a, b in zip(heads, before, strict=True)]
    assert changed == [True, False, True, False, True]
    torch.testing.assert_close(alpha[[1, 3]].sort(1)[0], torch.tensor([[0, 0.25, 0.25, 0.25, 0.25]] * 2).double())


@pytest.mark.parametrize("num_terms", [0, 1, 10, 200])
def test_inverse_product_against_numpy(num_terms):
    r = np.random.default_rng(0)
    bases = [np.linalg.qr(r.normal(size=(4, 4)))[0] for _ in range(2)]
    H = np.stack([Q @ np.diag([0.2, 0.7, 1.1, 1.6]) @ Q.T for Q in bases])
    v = r.normal(size=(2, 4))
    inverse_product = sys.modules[algorithms["trm"].__module__].inverse_product
    got = inverse_product(lambda u: torch.einsum("dij,dj->di", torch.tensor(H), u), torch.tensor(v), num_terms)
    powers = [np.linalg.matrix_power(np.eye(4) - H, k) @ v[..., None] for k in range(num_terms + 1)]
    np.testing.assert_allclose(got, np.sum(powers, 0)[..., 0], rtol=1e-10)
    if num_terms == 200:
        np.testing.assert_allclose(got, np.linalg.solve(H, v[..., None])[..., 0], rtol=1e-10)


def test_a_series_that_diverges_ends_alone():
    inverse_product = sys.modules[algorithms["trm"].__module__].inverse_product
    H, v = torch.tensor([[4.0], [0.5], [1e30]]), torch.ones(3, 1)
    got = inverse_product(lambda u: H * u, v, 100)
    torch.testing.assert_close(got, torch.tensor([[-20.0], [2.0], [-1e30]]))


def test_the_two_terms_are_the_whole_gradient_of_the_transfer_risk():
    """Of regression, whose heads are solved for exactly: R[Q, P](w_Q(features), features) by the normal equations."""
    hparams = {"erm_steps": 0, "head_steps": 4000, "head_lr": 1.0, "num_terms": 4000, "matching_weight": 1.0}
    method, (batch,) = trm(hparams, "regression", D=2, width=2), random_batches(1, "regression", D=2, B=12)
    features = torch.tensor(np.random.default_rng(0).normal(size=(2, 12, 2)) * 0.7, requires_grad=True)
    transfer, matching = method.transfer(features, batch)
    (got,) = torch.autograd.grad((transfer - matching).sum(), features)
    x = torch.cat([features, torch.ones(2, 12, 1)], 2)
    y = (batch.y - 5) / torch.tensor([1.0, 2.0, 3.0, 4.0])
    heads = torch.linalg.solve(x.mT @ x, x.mT @ y)
    risk = ((x @ heads.flip(0) - y) ** 2).mean((1, 2))
    torch.testing.assert_close(transfer, risk.flip(0).detach().requires_grad_(), rtol=1e-6, atol=1e-6)
    (expected,) = torch.autograd.grad(risk.sum(), features)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_evaluation_mode_leaves_heads_and_alpha():
    method, (batch,) = trm({"erm_steps": 0}).eval(), random_batches(1)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    method.loss(batch)
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())


def test_alpha_stays_finite_where_a_risk_is_huge():
    method = trm({"erm_steps": 0, "eta": 1e5}, "regression")
    (batch,) = random_batches(1, "regression")
    method.loss(Batch(batch.x, batch.y * 1e3, batch.domain))
    assert method.alpha.isfinite().all()
    torch.testing.assert_close(method.alpha.sum(1), torch.ones(3).double())


def test_regression_heads_stay_finite_where_features_are_large():
    method = trm({"erm_steps": 0, "head_steps": 200}, "regression")
    (batch,) = random_batches(1, "regression")
    assert method.loss(batch._replace(x=100 * batch.x))["transfer"].isfinite()
    assert method.heads.abs().max() < 10


def test_a_checkpoint_continues_heads_and_alpha(tmp_path):
    bench, hp = Workbench(algorithms["trm"], tmp_path), algorithms["trm"].HParams(erm_steps=1, eta=0.5)
    straight, fresh = bench.build(hp=hp), bench.build(hp=hp, seed=1)
    bench.train(straight, range(6))
    bench.train(fresh, range(3, 6), resume=bench.train(bench.build(hp=hp), range(3), save=True).saved)
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="TRM needs at least 2 training domains, got 1"):
        make("trm", D=1)
