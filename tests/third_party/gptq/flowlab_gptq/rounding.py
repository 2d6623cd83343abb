"""Second-order rounding: each column of a weight in turn, its error made good by the columns that are still free.

After Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022), section 3. The inputs are those of the layers that are quantized already, and what is aimed at is
what the float network makes of its own inputs, so that a layer also makes good what the layers before it lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """What is remembered of a layer's inputs, summed over ``count`` rows (places of windows); n inputs a weight.

    ``own``: (n, n), of the inputs that the integers make; ``cross``: (n, n), of the float network's inputs with them;
    both are about the means ``mean`` and ``float_mean``, (n,).
    """

    own: Tensor
    cross: Tensor
    mean: Tensor
    float_mean: Tensor
    count: int


def moments(rows: Tensor, float_rows: Tensor) -> Moments:
    """Of inputs (row, n) as the integers make them, and as the float network does."""
    mean, float_mean = rows.mean(0), float_rows.mean(0)
    centred = rows - mean
    return Moments(centred.T @ centred, (float_rows - float_mean).T @ centred, mean, float_mean, len(rows))


def damped(found: Moments, damping: float) -> Tensor:
    """The Hessian X'X with a part of its mean diagonal added to the diagonal; 1 where no input ever moves."""
    diagonal = found.own.diagonal()
    size = diagonal.mean()
    extra = damping * size if size > 0 else torch.ones_like(size)
    return found.own + torch.diag(extra.expand(len(diagonal)))


def aimed_at(weight: Tensor, found: Moments, damping: float) -> Tensor:
    """Real weights (out, n) that make of the integers' inputs what ``weight`` makes of the float network's.

    Least squares, held to ``weight`` by the damping: W + W (cross - own) / H.
    """
    return weight + torch.linalg.solve(damped(found, damping), (weight @ (found.cross - found.own)).T).T


def rounded(weight: Tensor, scale: Tensor, limit: int, hessian: Tensor) -> Tensor:
    """Whole numbers (out, n) within +-``limit``; times ``scale`` (out,) they stand for ``weight`` (out, n).

    The columns whose inputs vary most come first, while there are others to make good what they lose.
    """
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    left = weight[:, order].clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    whole = torch.empty_like(left)
    for column in range(left.shape[1]):
        whole[:, column] = torch.clamp(torch.round(left[:, column] / scale), -limit, limit)
        error = (left[:, column] - whole[:, column] * scale) / factor[column, column]
        left[:, column:] -= torch.outer(error, factor[column, column:])
    return whole[:, torch.argsort(order)]
