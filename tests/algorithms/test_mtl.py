import pytest
import torch

from dgbench.evaluation import evaluation_batch_size
from dgbench.registry import algorithms
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    example_losses,
    make,
    random_batches,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def outputs(weights, x, embedding_of):
    """Of a linear head on features (..., B, F) and, beside each, what `embedding_of` makes of them, (..., F)."""
    W, b, V, c = weights
    features = (x @ W.T + b).clamp(min=0)
    embedding = embedding_of(features).unsqueeze(-2) + 0 * features
    return torch.cat([features, embedding], -1) @ V.T + c


def initial(D):
    return torch.zeros(D, 7, dtype=torch.float64)


def objective(average, ema=0.9, mean=lambda features: features.mean(-2), seen=1.0):
    """Blanchard et al. 2021 as in DomainBed, without its noise: moving averages (D, F), the risks summed."""

    def loss(weights, batch, step=0):
        rows = batch.domain[:, 0].tolist()

        def embedding_of(features):
            new = ema * mean(features) + (1 - ema) * torch.stack([average[d] for d in rows])
            for d, value in zip(rows, new.detach(), strict=True):
                average[d] = value
            return seen * new

        return example_losses(outputs(weights, batch.x, embedding_of), batch.y).mean(1).sum()

    return loss


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_and_embeddings_after_three_steps(kind, D):
    mtl = make("mtl", {"ema": 0.9}, kind, D)
    batches, start, average = random_batches(3, kind, D), weights_of(mtl), initial(D)
    train(mtl, batches)
    assert mtl.step == 3
    assert_weights(mtl, adam_steps(start, batches, objective(average)))
    torch.testing.assert_close(mtl.embeddings, average)
    for change in ({"seen": 0.0}, {"ema": 1.0}, {"mean": lambda features: features.mean(-2).detach()}):
        assert differs(mtl, adam_steps(start, batches, objective(initial(D), **change))), change


def test_loss_of_two_steps():
    mtl, batches, expected = make("mtl", {"ema": 0.9}), random_batches(2), objective(initial(3))
    for batch in batches:
        values, total = mtl.loss(batch), expected(weights_of(mtl), batch)
        torch.testing.assert_close(values, {"loss": total, "nll": total / 3})


def test_a_batch_of_some_domains():
    mtl, rows = make("mtl", {"ema": 0.9}, D=4), [[3, 1], [0, 3], [1, 3]]
    batches = [type(b)(*(part[r] for part in b[:3])) for b, r in zip(random_batches(3, D=4), rows, strict=True)]
    start, average = weights_of(mtl), initial(4)
    assert_weights(train(mtl, batches), adam_steps(start, batches, objective(average)))
    torch.testing.assert_close(mtl.embeddings, average)
    assert [bool(row.any()) for row in mtl.embeddings] == [True, True, False, True]
    by_position = [batch._replace(domain=random_batches(1, D=2)[0].domain) for batch in batches]
    assert differs(mtl, adam_steps(start, by_position, objective(initial(4))))


@KINDS
def test_prediction_reads_the_mean_of_the_batch(kind):
    mtl, batches = make("mtl", {"ema": 0.5}, kind), random_batches(3, kind)
    train(mtl, batches).eval()
    for x in (batches[0].x[0], batches[0].x[1, :4], batches[0].x[2, :1]):
        got = outputs(weights_of(mtl), x, lambda features: features.mean(-2))
        if kind == "regression":
            got = got * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
        torch.testing.assert_close(mtl(x), got)
        assert torch.equal(mtl(x), mtl(x))  # DomainBed's are noisy
    together, among_others = mtl(batches[0].x[0])[0], mtl(torch.cat([batches[0].x[0, :1], batches[0].x[1]]))[0]
    assert (together - among_others).abs().max() > 1e-3


def test_predictions_are_made_of_64_examples():
    assert evaluation_batch_size(make("mtl"), torch.device("cpu")) == 64
    assert not algorithms["mtl"].composite


def test_without_memory_training_and_evaluation_agree():
    mtl, (batch,) = make("mtl", {"ema": 1.0}), random_batches(1)
    mtl.embeddings.fill_(100.0)
    risks = [mtl.task.loss(mtl(x), y) for x, y in zip(batch.x, batch.y, strict=True)]
    torch.testing.assert_close(mtl.loss(batch)["loss"], sum(risks))
    torch.testing.assert_close(
        mtl.embeddings, torch.stack([mtl.features(x).mean(0) for x in batch.x]).detach(), rtol=1e-9, atol=1e-9
    )


def test_embeddings_go_with_the_checkpoint():
    mtl, batches = make("mtl", {"ema": 0.5}), random_batches(2)
    train(mtl, batches)
    fresh = make("mtl", {"ema": 0.5}, seed=1)
    fresh.load_state_dict(mtl.state_dict())
    assert torch.equal(fresh.embeddings, mtl.embeddings)
    assert fresh.embeddings.any(1).all()
    torch.testing.assert_close(fresh.loss(batches[0])["loss"], mtl.loss(batches[0])["loss"], rtol=0, atol=0)


def test_evaluation_leaves_the_embeddings_alone():
    mtl, (batch,) = make("mtl"), random_batches(1)
    mtl.eval().loss(batch)
    mtl(batch.x[0])
    assert not mtl.embeddings.any()


def test_the_embedding_keeps_its_precision_under_autocast():
    mtl, (batch,) = make("mtl").float(), random_batches(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert mtl.loss(batch._replace(x=batch.x.float()))["loss"].isfinite()
    assert mtl.embeddings.dtype == torch.float32


@pytest.mark.parametrize("ema", [-0.1, 1.5])
def test_a_part_that_is_none_is_refused(ema):
    with pytest.raises(ValueError, match=rf"algorithm\.ema={ema}, expected a part from 0 to 1"):
        make("mtl", {"ema": ema})
