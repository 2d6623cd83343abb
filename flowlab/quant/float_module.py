"""The trained float network as a module whose batch norms are what ships: one line a channel, ``x * scale + shift``.

ONNX Runtime, the interpreter and the C compute a batch norm so, product and sum rounded one after the other. torch
rounds once, which shows where a variable's mean is hundreds of times its spread, as in raw samples of a converter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Line(nn.Module):
    """A batch norm at inference, with scale and shift computed in float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        """Take the numbers of a norm that keeps running statistics."""
        super().__init__()
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None  # the float graph was made of it
        assert variance is not None
        weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach()
        scale = weight * (1.0 / torch.sqrt(variance + norm.eps))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", bias - mean * scale)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, ...) -> the same shape."""
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)


def with_lines(model: nn.Module) -> nn.Module:
    """The same module in eval mode, every batch norm in it replaced by its line. It is changed in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in NORMS:
                setattr(parent, name, Line(child))  # type: ignore[arg-type]
    return model.eval()
