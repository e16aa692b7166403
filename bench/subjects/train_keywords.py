"""`python -m bench train_keywords`: trains the LSTM of `keywords` on synthesized words, in float32, and writes its file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from . import keywords

TRAINED, TESTED, BATCH = 900, 200, 32


class Network(torch.nn.Module):  # type: ignore[misc]  # torch is not there for mypy
    """As `keywords.Spotter`."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(keywords.MELS, keywords.HIDDEN, batch_first=True)
        self.head = torch.nn.Linear(keywords.HIDDEN, len(keywords.CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scores of each frame."""
        scores: torch.Tensor = self.head(self.rnn(x)[0])
        return scores


def main(arguments: Sequence[str]) -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench train_keywords", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=TRAINED)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    x, labels = (torch.from_numpy(array) for array in keywords.samples(1, given.samples))
    test, wanted = keywords.samples(2, TESTED)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=1e-4)
    steps = given.epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for epoch in range(given.epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            scores = network(x[batch])[:, -30:].mean(dim=1)
            loss = functional.cross_entropy(scores, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            right = (keywords.decided(network(torch.from_numpy(test)).numpy()) == wanted).mean()
        print(f"epoch {epoch}: loss {loss.item():.3f}, {right:.1%} of {TESTED} test words right", flush=True)
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    np.savez_compressed(keywords.FILE, **state)
