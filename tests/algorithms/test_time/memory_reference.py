"""The memories of RoTTA and NOTE again, as lists; a trained net on images, and its answer again on plain tensors."""

import hashlib
import math

import torch
from torch.nn.functional import conv2d

from dgbench.adapter_state import state_of
from dgbench.workbench import different
from tests.algorithms.reference import make, random_batches, train


class Timely:
    """Yuan et al. 2023, CSTU: lists of [age, uncertainty, image] by class."""

    def __init__(self, N, C):
        self.N, self.C = N, C
        self.held: dict[int, list] = {c: [] for c in range(C)}

    def score(self, age, uncertainty):
        return 1 / (1 + math.exp(-age / self.N)) + uncertainty / math.log(self.C)

    def room(self, label, uncertainty):
        if len(self.held[label]) < self.N / self.C:
            if sum(map(len, self.held.values())) < self.N:
                return True
            most = max(map(len, self.held.values()))
            classes = [c for c in self.held if len(self.held[c]) == most]
        else:
            classes = [label]
        worst = max(((self.score(*item[:2]), -item[0]), c, i) for c in classes for i, item in enumerate(self.held[c]))
        if worst[0][0] <= self.score(0, uncertainty):
            return False
        del self.held[worst[1]][worst[2]]
        return True

    def add(self, image, label, uncertainty):
        if self.room(label, uncertainty):
            self.held[label].append([0, uncertainty, image])
        for items in self.held.values():
            for item in items:
                item[0] += 1

    def content(self):
        """(age, uncertainty, image, class), the newest first."""
        return sorted((*item, c) for c, items in self.held.items() for item in items)


class Reservoir:
    """Gong et al. 2022, PBRS: a list of (image, class), in which what comes takes the place of what leaves."""

    def __init__(self, N, C):
        self.N, self.held, self.offered = N, [], [0] * C

    def add(self, image, label):
        self.offered[label] += 1
        if len(self.held) < self.N:
            self.held.append((image, label))
            return
        counts = [sum(c == k for _, c in self.held) for k in range(len(self.offered))]
        largest = [k for k, count in enumerate(counts) if count == max(counts)]
        leaving = label
        if label not in largest:
            leaving = largest[int(torch.randint(len(largest), ()))]
        elif float(torch.rand(())) >= counts[label] / self.offered[label]:
            return
        places = [i for i, (_, c) in enumerate(self.held) if c == leaving]
        self.held[places[int(torch.randint(len(places), ()))]] = (image, label)


def seed(step):
    """Of an adapter's step, as its contract has it."""
    return int(hashlib.md5(str(("adapt", 0, step)).encode()).hexdigest(), 16) % 2**31


def trained(norm):
    """relu(norm(conv(x))), the mean over pixels, a head of four classes; in float64, on images (3, 6, 6)."""
    algorithm = make("erm", shape=(3, 6, 6), name="small_cnn", norm=norm, width=5, depth=1)
    algorithm = train(algorithm, random_batches(6, shape=(3, 6, 6))).eval()
    with torch.no_grad():
        algorithm.network.head.weight.mul_(4)  # some of the predictions are certain
    return algorithm


def stream(sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, 3, 6, 6, generator=generator, dtype=torch.float64) for size in sizes]


def parameters(model):
    """Kernels, gamma, beta, V, c."""
    return [p.detach().clone() for p in model.network.parameters()]


def statistics(model):
    norm = model.network.body.get_submodule("conv1.1")
    return norm.running_mean.clone(), norm.running_var.clone()


def maps(w, x):
    """What is normalised, (N, 5, 6, 6)."""
    return conv2d(x, w[0], padding=1)


def answer(w, x, mean, var):
    """Logits, given mean and variance by which maps are normalised, (5,) or (N, 5)."""
    mean, var, gamma, beta = (v[..., None, None] for v in (mean, var, w[1], w[2]))
    features = ((maps(w, x) - mean) / (var + 1e-5) ** 0.5 * gamma + beta).clamp(min=0).mean((2, 3))
    return features @ w[3].T + w[4]


def entropies(z):
    p = z.exp() / z.exp().sum(1, keepdim=True)
    return -(p * p.log()).sum(1)


def check_reset(fresh, batches):
    """After updates, asking changes nothing, and a reset makes an adapter new: it repeats its answers bit for bit."""
    adapter, other = fresh(), fresh()
    answers, start = [other.step(x) for x in batches], state_of(adapter)
    [adapter.step(x) for x in batches]
    before = state_of(adapter)
    adapter.predict(batches[0])
    assert not different(state_of(adapter), before)
    adapter.reset()
    assert not different(state_of(adapter), start)
    assert all(torch.equal(adapter.step(x), y) for x, y in zip(batches, answers, strict=True))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
