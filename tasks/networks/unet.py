"""A U-Net for images: residual blocks on a pyramid of resolutions, modulated by the times and the label.

The way up adds the states of the way down instead of concatenating them (Hoogeboom et al., *simple diffusion*, arXiv
2301.11093), which saves a fifth of the work.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from tasks.networks.embedding import LabelEmbedding, TimeEmbedding, embed, silent_embedding
from tasks.specs import NetworkSpec

_EMBEDDING_FACTOR = 4  # width of the embedding in units of the finest level's channels
_GROUP_CHANNELS = 4  # of a group that is normalised together, at least
_MOST_GROUPS = 32
_HEAD_CHANNELS = 64  # of an attention head, at least


class UNet(nn.Module):
    """Map ``(x, t)`` or ``(x, t, s)`` to an output of the shape of ``x [batch, channels, height, width]``.

    Level l has ``channels * multipliers[l]`` channels and sides divided by 2^l. A level's blocks going up see
    (h + skip)/sqrt(2), the sum of two states of equal scale at the scale of one.

    Args:
        dim: shape of one image, whose sides are multiples of 2^(levels - 1).
        spec: sizes; ``tasks.networks.build.require_fitting`` tells whether they fit ``dim``.
        two_times: whether there is a second time s; its branch ends in zeros, as in the perceptron.
        classes: number of class labels; 0: labels are ignored.
    """

    def __init__(self, dim: tuple[int, ...], spec: NetworkSpec, *, two_times: bool = False, classes: int = 0) -> None:
        super().__init__()
        widths = [spec.channels * multiplier for multiplier in spec.multipliers]
        embedded = _EMBEDDING_FACTOR * spec.channels
        has_attention = [side in spec.attention for side in level_sides(spec, dim)]

        def block(level: int) -> ResidualBlock:
            return ResidualBlock(
                widths[level], embedded=embedded, dropout=spec.dropout, has_attention=has_attention[level]
            )

        self.time = TimeEmbedding(embedded)
        self.second_time = silent_embedding(embedded) if two_times else None
        self.input = stream_convolution(dim[0], widths[0])
        self.down = nn.ModuleList(
            nn.ModuleList(block(level) for _ in range(spec.blocks)) for level in range(len(widths))
        )
        self.middle = nn.ModuleList(block(len(widths) - 1) for _ in range(2))
        self.up = nn.ModuleList(nn.ModuleList(block(level) for _ in range(spec.blocks)) for level in range(len(widths)))
        pairs = list(pairwise(widths))
        self.halving = nn.ModuleList(stream_convolution(fine, coarse, stride=2) for fine, coarse in pairs)
        # at the coarse side, for a quarter of the work; the blocks that follow smooth what doubling makes blocky
        self.doubling = nn.ModuleList(stream_convolution(coarse, fine) for fine, coarse in pairs)
        self.norm = nn.GroupNorm(group_count(widths[0]), widths[0])
        self.output = nn.Conv2d(widths[0], dim[0], 3, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(_bias(self.output))
        # drawn last, so that the weights that both have are the same with and without labels
        self.labels = LabelEmbedding(classes, embedded) if classes else None

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Give the output, ``[batch, *dim]``.

        Args:
            x: states, ``[batch, *dim]``.
            t: times, ``[batch]`` or 0-d.
            s: second times, alike.
            label: class labels, int64 ``[batch]``, -1 where there is none; None: nowhere.
        """
        embedded = nn.functional.silu(embed(self, t, s, label))
        hidden = self.input(x)
        passed: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level > 0:
                hidden = self.halving[level - 1](hidden)
            for block in _list(blocks):
                hidden = block(hidden, embedded)
                passed.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedded)
        for level, blocks in reversed(list(enumerate(self.up))):
            for block in _list(blocks):
                hidden = block((hidden + passed.pop()) * math.sqrt(0.5), embedded)
            if level > 0:
                hidden = nn.functional.interpolate(self.doubling[level - 1](hidden), scale_factor=2.0)
        return torch.as_tensor(self.output(nn.functional.silu(self.norm(hidden))))


class ResidualBlock(nn.Module):
    """h + conv(silu(a norm(conv(silu(norm h))) + b)), with (a - 1, b) linear in the embedding; zero change when fresh.

    Args:
        channels: of h.
        embedded: width of the embedding.
        dropout: share of features hidden before the second convolution, while training.
        has_attention: whether self-attention follows.
    """

    def __init__(self, channels: int, *, embedded: int, dropout: float, has_attention: bool) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(group_count(channels), channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedded, 2 * channels)
        self.second_norm = nn.GroupNorm(group_count(channels), channels, affine=False)  # the modulation is its affine
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(_bias(self.second))
        self.attention = SelfAttention(channels) if has_attention else None

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """Give the shape of ``hidden [batch, channels, height, width]``, for ``embedded [batch or 1, size]``."""
        scale, shift = self.modulation(embedded)[:, :, None, None].chunk(2, 1)
        change = self.first(nn.functional.silu(self.first_norm(hidden)))
        change = torch.addcmul(shift, self.second_norm(change), 1 + scale)
        hidden = hidden + self.second(self.dropout(nn.functional.silu(change)))
        return hidden if self.attention is None else torch.as_tensor(self.attention(hidden))


class SelfAttention(nn.Module):
    """h + attention over all pixels of norm h; zero change when fresh."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = largest_divisor(channels, at_most=max(1, channels // _HEAD_CHANNELS))
        self.norm = nn.GroupNorm(group_count(channels), channels)
        self.input = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Give ``[batch, channels, height, width]`` for ``hidden`` of that shape."""
        batch, channels, height, width = hidden.shape
        # [batch, pixels, channels]
        pixels = self.norm(hidden).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        # three of [batch, heads, pixels, channels / heads]
        query, key, value = (
            self.input(pixels).reshape(batch, -1, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        change = self.output(mixed.transpose(1, 2).reshape(batch, -1, channels))
        return torch.as_tensor(hidden + change.reshape(batch, height, width, channels).permute(0, 3, 1, 2))


def level_sides(spec: NetworkSpec, dim: tuple[int, ...]) -> tuple[int, ...]:
    """Give the longer side of each level in pixels, finest first."""
    return tuple(max(dim[1:]) >> level for level in range(len(spec.multipliers)))


def stream_convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """Give a 3x3 convolution that keeps the scale of what it is given: its weights have variance 1/(9 inputs)."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    nn.init.zeros_(_bias(convolution))
    return convolution


def group_count(channels: int) -> int:
    """Give the number of groups of a normalisation: a divisor of ``channels``, so for any sizes."""
    return largest_divisor(channels, at_most=max(1, min(_MOST_GROUPS, channels // _GROUP_CHANNELS)))


def largest_divisor(number: int, *, at_most: int) -> int:
    """Give the largest divisor of a number that is not above ``at_most``."""
    return next(divisor for divisor in range(at_most, 0, -1) if number % divisor == 0)


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def _list(blocks: nn.Module) -> nn.ModuleList:
    assert isinstance(blocks, nn.ModuleList)
    return blocks
