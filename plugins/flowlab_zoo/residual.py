"""The vendor's two networks with two branches, which meet in a sum or end to end.

Source: tinyml-modelmaker's model descriptions ``RES_ADD_CNN_TS_GEN_BASE_3K`` and ``RES_CAT_CNN_TS_GEN_BASE_3K``; both
have 708 parameters at one variable and two classes (fact sheet, section 4). No padding anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowlab.contracts import Model
from flowlab_zoo.models import DEFAULTS

if TYPE_CHECKING:
    import torch

CHANNELS = (4, 8, 16)  # of the long branch; the short one goes to the last at once


class TwoBranches(Model):
    """A long branch of three convolutions and a short one of one, from the same norm over the input."""

    libraries = ("torch",)
    code = ("flowlab_zoo.residual", "flowlab_zoo.two_branches")
    defaults = DEFAULTS
    lite = True

    def __init__(self, name: str, summary: str, *, adds: bool) -> None:
        """``adds``: the branches' averages are added; else the branches are laid end to end, and averaged."""
        self.name, self.summary, self.adds = name, summary, adds

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        """The module with torch's own initial weights, drawn from torch's generator.

        Raises:
            OptionError: if the input is too short for the long branch.
        """
        from flowlab_zoo.two_branches import TwoBranchNetwork

        return TwoBranchNetwork(shape, outputs, CHANNELS, adds=self.adds)


MODELS: tuple[Model, ...] = (
    TwoBranches("CLS_ResAdd_3k", "two branches whose averages are added", adds=True),
    TwoBranches("CLS_ResCat_3k", "two branches end to end, then averaged", adds=False),
)
