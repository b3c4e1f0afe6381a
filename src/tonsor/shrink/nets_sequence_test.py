"""Small networks over sequences."""

import torch
from torch import Tensor, nn


class Sequenced(nn.Module):
    """A recurrent layer between others: its hidden units go with their gates."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Linear(5, 8), nn.Linear(8, 4)
        self.lstm = nn.LSTM(4, 7, batch_first=True)
        self.hidden, self.head = nn.Linear(7, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.inner(torch.relu(self.first(x))))
        return self.head(torch.relu(self.hidden(x[:, -1])))


class Attending(nn.Module):
    """A transformer's block: heads and feed-forward units shrink."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x))[:, 0])
