"""Clusters on a spiral, and their graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dgbench.datasets._spiral import draw_graph, truncated_normal
from dgbench.registry import datasets

SEEDS = range(8)


@pytest.mark.parametrize(("name", "num_domains"), [("dg_15", 15), ("dg_60", 60)])
def test_clusters_lie_on_the_spiral(name, num_domains, load_once):
    dataset = load_once(name, 0)
    assert dataset.domain_names == tuple(f"d{i}" for i in range(num_domains))
    for domain in dataset.domains:
        assert domain.metadata.shape == (2,)
        cosine, sine = domain.metadata.double().tolist()
        angle = np.arctan2(sine, cosine) % (2 * np.pi)
        mean = np.array([cosine, sine]) * (1 + 6 * angle / (2 * np.pi))
        x, y = domain.inputs.double().numpy(), domain.targets.numpy()
        assert np.bincount(y).tolist() == [50, 50]
        for label, centre in ((0, mean), (1, -mean)):
            distance = np.linalg.norm(x[y == label] - centre, axis=1)
            assert 0.8 < distance.max() <= 1 + 1e-5


def test_angles_are_uniform():
    angles = []
    for seed in SEEDS:
        cosine, sine = torch.stack([d.metadata for d in datasets["dg_60"](data_seed=seed).domains]).double().numpy().T
        angles.append(np.arctan2(sine, cosine) % (2 * np.pi))
    assert stats.kstest(np.concatenate(angles) / (2 * np.pi), "uniform").pvalue > 0.01


def test_truncated_points_are_those_that_rejection_keeps():
    rng = np.random.default_rng(0)
    drawn = truncated_normal(rng, 20_000)
    points = rng.standard_normal((60_000, 2))
    kept = points[np.square(points).sum(1) <= 1]
    for direction in np.eye(2):
        assert stats.ks_2samp(drawn @ direction, kept @ direction).pvalue > 0.01
    assert stats.ks_2samp(np.linalg.norm(drawn, axis=1), np.linalg.norm(kept, axis=1)).pvalue > 0.01


@pytest.mark.parametrize(("name", "least"), [("dg_15", 0.5), ("dg_60", 0.2)])
def test_the_graph_is_drawn_by_the_cosine_between_angles(name, least):
    edges, affinities = [], []
    for seed in SEEDS:
        dataset = datasets[name](data_seed=seed)
        A, D = dataset.adjacency, len(dataset.domains)
        assert A.shape == (D, D)
        assert A.dtype == torch.bool
        assert torch.equal(A, A.T)
        assert not A.diagonal().any()
        u = torch.stack([domain.metadata for domain in dataset.domains]).double()
        upper = torch.ones(D, D).triu(1).bool()
        edges.append(A[upper])
        affinities.append((u @ u.T)[upper])
    edge, affinity = torch.cat(edges).double(), torch.cat(affinities)
    assert not edge[affinity < least - 1e-6].any()
    for low in np.arange(least, 1, 0.1):
        bin_ = (affinity >= low) & (affinity < low + 0.1)
        spread = float((affinity[bin_] * (1 - affinity[bin_])).sum().clamp(min=0).sqrt())
        assert abs(float((edge - affinity)[bin_].sum())) < 4 * spread + 1


def test_certain_edges_are_always_there():
    rng = np.random.default_rng(0)
    assert draw_graph(rng, np.ones((4, 4)), 0.5).tolist() == (~np.eye(4, dtype=bool)).tolist()
    assert not draw_graph(rng, np.full((4, 4), 0.4), 0.5).any()


def test_designated_domains_are_the_authors(load_once):
    train, test = load_once("dg_15", 0).designated
    assert train == ("d0", "d3", "d4", "d8", "d12", "d14")
    assert set(train) | set(test) == set(load_once("dg_15", 0).domain_names)
    assert not set(train) & set(test)
    assert load_once("dg_60", 0).designated[0] == ("d2", "d14", "d23", "d33", "d41", "d59")
