"""Names of the vendor's networks that are known and not built, each with the reason that a config is told.

Source: tinyml-modelmaker's model descriptions, read for the fact sheet (section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Model
from flowlab.errors import NotBuiltYet

if TYPE_CHECKING:
    import torch


class NamedModel(Model):
    """A name, and why there is no network behind it."""

    def __init__(self, name: str, reason: str) -> None:
        """``reason`` ends the sentence "model 'name' is not built yet: "."""
        self.name, self.not_built = name, reason

    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        """Raise `NotBuiltYet`."""
        raise NotBuiltYet(f"model '{self.name}' is not built yet: {self.not_built}")


REASONS: Mapping[str, tuple[str, ...]] = {
    # its layers are public, and have one parameter less than its published number
    "it takes the statistics of PIR_FE, which is not built": ("PIRDetection_model_1_t",),
    "its layers are not public": (
        *(f"ArcFault_model_{size}_t" for size in (200, 300, 700, 1400)),
        *(f"MotorFault_model_{number}_t" for number in (1, 2, 3)),
        *(f"FanImbalance_model_{number}_t" for number in (1, 2, 3)),
    ),
    "it is found by an architecture search": ("NAS",),
    "it is for images": ("Lenet5", "MobileNetV1_58k_NPU", "MobileNetV2_58k_NPU"),
    "it is for audio": ("DSCNN_NPU",),
    "it is for radar": ("Pose_and_Fall_model",),
    "it is for regression": tuple(
        f"REGR_{size}"
        for size in ("1k", "2k", "3k", "4k", "10k", "13k", "500_NPU", "2k_NPU", "6k_NPU", "8k_NPU", "20k_NPU")
    ),
    "it is for forecasting": tuple(
        f"FCST_{size}"
        for size in (
            *("3k", "13k", "LSTM8", "LSTM10"),
            *(f"{size}_NPU" for size in ("500", "1k", "2k", "4k", "6k", "8k", "10k", "20k")),
        )
    ),
    "it is for anomaly detection": (
        "Ondevice_Trainable_AD_Linear",
        *(
            f"AD_{size}"
            for size in (
                *("Linear", "1k", "4k", "16k", "17k"),
                *(f"{size}_NPU" for size in ("500", "2k", "6k", "8k", "10k", "20k")),
            )
        ),
    ),
}

NOT_BUILT: tuple[Model, ...] = tuple(NamedModel(name, reason) for reason, names in REASONS.items() for name in names)
