"""What a user's own loop does not do: learn from the float network too, without another loss in the user's script.

The outputs pass through `Lesson` unchanged. On the way back, a window whose gradient is that of a cross entropy against
one class, to rounding, gets a share of the gradient of the divergence from the float network's softened probabilities,
at the scale that the loss gave this window (its reduction, a class's weight, the scaling of mixed precision); one that
is answered so well that its gradient is rounding alone gets it at the scale that all others have. Every other window is
left as it is: those of other losses, of smoothed labels, of a loss on some of the outputs, those that the loss ignores.
So is every window once the float network is right less often than the one that is trained, as an untrained one soon is:
there is nothing to be learned from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REMEMBERED = 0.98  # how much of what is known of both networks' right answers a batch leaves
ROUNDING = 1e-3  # of a gradient's size: how far from a cross entropy's it may be
ALIKE = 0.01  # of a scale: how far from it those of other windows may be, to be the same
LEAST = 1e-30  # of a probability


@dataclass
class Lessons:
    """The float network's share of the gradient, its softening, and how often both were right of late."""

    share: float
    temperature: float
    taught_right: float = 0.0
    said_right: float = 0.0
    batches: int = 0

    @property
    def useful(self) -> bool:
        """Whether the float network was right at least as often."""
        return self.taught_right >= self.said_right

    def seen(self, taught: float, said: float) -> None:
        """Another batch: shares of right answers."""
        weight = 0.0 if self.batches == 0 else REMEMBERED
        self.taught_right = weight * self.taught_right + (1 - weight) * taught
        self.said_right = weight * self.said_right + (1 - weight) * said
        self.batches += 1


class Lesson(torch.autograd.Function):
    """float32 (window, class) outputs as they are; backwards, the gradient that the float network has a share in."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, taught: Tensor, lessons: Lessons) -> Tensor:
        """Keep what is needed on the way back."""
        ctx.save_for_backward(outputs, taught)
        ctx.lessons = lessons
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Of the outputs alone."""
        outputs, taught = ctx.saved_tensors
        return shared(gradients[0], outputs, taught, ctx.lessons), None, None


def shared(gradient: Tensor, outputs: Tensor, taught: Tensor, lessons: Lessons) -> Tensor:
    """The user's gradient with the float network's share in it, or as it is.

    Args:
        gradient: float32 (window, class), of the user's loss.
        outputs: the logits that it belongs to.
        taught: the float network's.
        lessons: how; it learns how often both were right.
    """
    said = torch.softmax(outputs, 1)
    label = gradient.argmin(1, keepdim=True)  # the only class whose logit should rise
    answer = torch.zeros_like(said).scatter_(1, label, 1.0)
    missing = (said * (1 - answer)).sum(1, keepdim=True)
    scale = -gradient.gather(1, label) / missing.clamp_min(LEAST)
    largest = gradient.abs().amax(1, keepdim=True)
    strange = (gradient - scale * (said * (1 - answer) - missing * answer)).abs().amax(1, keepdim=True)
    known = (largest > 0) & (strange <= ROUNDING * largest)
    if not bool(known.any()):
        return gradient
    common = scale[known].median()
    if bool(((scale[known] - common).abs() <= ALIKE * common).all()):  # of a right answer only rounding may be left
        settled = (largest > 0) & (largest <= ROUNDING * common)
        scale, known = torch.where(settled, common, scale), known | settled
    lessons.seen(_right(taught, label, known), _right(outputs, label, known))
    if not lessons.useful:
        return gradient
    softened = [torch.softmax(logits / lessons.temperature, 1) for logits in (outputs, taught)]
    lesson = scale * lessons.temperature * (softened[0] - softened[1])
    return torch.where(known, (1 - lessons.share) * gradient + lessons.share * lesson, gradient)


def _right(logits: Tensor, label: Tensor, known: Tensor) -> float:
    return float((logits.argmax(1, keepdim=True) == label)[known].float().mean())
