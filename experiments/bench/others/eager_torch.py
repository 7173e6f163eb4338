"""One arm in eager PyTorch: the model of `TinyViT`, with the same sizes and the same dropout."""

import numpy as np
import torch
from torch import Tensor, nn

from experiments.bench.throughput import Trainee
from experiments.tasks.vision_transformer import TinyViT, positions


class Block(nn.Module):
    def __init__(self, features: int, heads: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(features, eps=1e-6) for _ in range(2)])
        self.attend = nn.MultiheadAttention(features, heads, dropout, batch_first=True)
        self.widen, self.narrow = nn.Linear(features, 2 * features), nn.Linear(2 * features, features)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        normalized = self.norms[0](tokens)
        tokens = tokens + self.attend(normalized, normalized, normalized, need_weights=False)[0]
        hidden = nn.functional.gelu(self.widen(self.norms[1](tokens)), approximate="tanh")
        return tokens + self.drop(self.narrow(self.drop(hidden)))


class Transformer(nn.Module):
    positions: Tensor

    def __init__(self, model: TinyViT, side: int, channels: int):
        super().__init__()
        self.patch = model.patch_size
        self.embed_patches = nn.Linear(self.patch**2 * channels, model.features)
        self.class_token = nn.Parameter(torch.randn(1, 1, model.features))
        self.register_buffer("positions", torch.tensor(np.array(positions(model.features, (side // self.patch) ** 2))))
        self.blocks = nn.Sequential(*(Block(model.features, model.heads, model.dropout) for _ in range(model.layers)))
        self.classify = nn.Linear(model.features, model.classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.unfold(images, self.patch, stride=self.patch).mT
        tokens = self.embed_patches(patches) + self.positions
        tokens = torch.cat([tokens, self.class_token.expand(len(images), -1, -1)], dim=1)
        return self.classify(self.blocks(tokens)[:, 0])


def eager_torch(like: TinyViT, batch_size: int, side: int = 32, channels: int = 3) -> Trainee:
    """An arm with Adam on batches of random images."""
    model = Transformer(like, side, channels)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-6)
    images = torch.rand(1_000, channels, side, side)
    labels = torch.randint(0, like.classes, (1_000,))

    def advance(count: int) -> list[float]:
        losses = []
        for _ in range(count):
            batch = torch.randint(0, len(images), (batch_size,))
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return Trainee("one arm in eager PyTorch", 1, advance)
