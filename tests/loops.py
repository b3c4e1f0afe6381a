"""One small problem, and what a plain torch loop makes of it: the oracle of the loops we do not own."""

import torch
from torch.nn.utils import clip_grad_norm_

BOUND = 0.5


def net(seed=0):
    """Return a small network, always the same."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def data(count=16):
    """Return inputs and targets far off, so that every step is clipped."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, generator=generator), 5 * torch.randn(count, 2, generator=generator)


def loader(batch=4, count=16):
    """Return the data in order."""
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data(count)), batch_size=batch)


def loss_of(model, batch):
    """Return the loss of a batch."""
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def weights(model):
    """Return all weights as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain(*, accumulate=1, epochs=1, dtype=None, after=lambda model: None, zero=lambda model: None):
    """Train by hand, clipping the accumulated sum with torch's own function; return weights and norms."""
    model, norms = net(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for i, batch in enumerate(loader()):
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = loss_of(model, batch)
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
                zero(model)
                norms.append(clip_grad_norm_(model.parameters(), BOUND).item())
                optimizer.step()
                after(model)
                optimizer.zero_grad()
    return weights(model), norms
