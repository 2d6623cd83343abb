"""What a user's own loop does not do: learn from the float network too, without another loss in the user's script.

The outputs pass through `Lesson` unchanged. On the way back, where the gradient is that of a cross entropy, a share of
it becomes the gradient of the divergence from the float network's softened probabilities, at the same scale, whatever
the loss's reduction. Any other gradient (of a regression, say) is left as it is: a cross entropy's is told by its sum
over the classes, which is 0. So is every gradient once the float network is right less often than the one that is
trained, as an untrained one soon is: there is nothing to be learned from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REMEMBERED = 0.98  # how much of what is known of both networks' right answers a batch leaves
NOTHING = 1e-4  # of a gradient's size: what its sum over the classes may be


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
    if float(gradient.sum(1).abs().sum()) > NOTHING * float(gradient.abs().sum()):
        return gradient
    label = gradient.argmin(1, keepdim=True)  # the only class whose logit should rise
    lessons.seen(_right(taught, label), _right(outputs, label))
    missing = float((1 - torch.softmax(outputs, 1).gather(1, label)).sum())
    if not lessons.useful or missing == 0:
        return gradient
    scale = -float(gradient.gather(1, label).sum()) / missing  # of the loss: 1 / windows for a mean
    softened = [torch.softmax(logits / lessons.temperature, 1) for logits in (outputs, taught)]
    lesson = scale * lessons.temperature * (softened[0] - softened[1])
    return (1 - lessons.share) * gradient + lessons.share * lesson


def _right(logits: Tensor, label: Tensor) -> float:
    return float((logits.argmax(1, keepdim=True) == label).float().mean())
