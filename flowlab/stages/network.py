"""The float network of a run: as its model builds it, after surgery where the config asks for that."""

from __future__ import annotations

from typing import Any, cast

from flowlab.contracts import Model, StageJob
from flowlab.errors import OptionError
from flowlab.stages.choice import accelerator_off


def surgery(config: Any, catalogue: Any) -> bool:
    """Whether parts of the network are replaced before float training.

    ``auto`` does so for a device whose accelerator is used and a model that comes untrained, ``force`` always. A model
    that says of itself that there is nothing to replace is the same for all devices, so that they share its training.
    """
    asked = config.training.surgery
    model = catalogue.get("model", config.training.model_name)
    if asked == "off" or model.lite:
        return False
    target = catalogue.get("target", config.common.target_device)
    used = bool(target.rules()) and not accelerator_off(config, catalogue)
    return bool(asked == "force" or (used and not model.trained))


def build(job: StageJob, shape: tuple[int, int, int], outputs: int) -> tuple[Any, tuple[str, ...]]:
    """The module, and a sentence for each part that was replaced.

    Raises:
        OptionError: where a replacement does not fit; it names the place.
    """
    model = cast(Model, job.plugins["model"])
    if not isinstance(model, Model):
        raise OptionError(f"'{model.name}' is a {model.kind}, and training.model_name names a model")
    module = model.build(shape, outputs, job.plugin_options["model"])
    if not job.options.surgery:
        return module, ()
    from flowlab.quant.lite import lite_for

    done = lite_for(module, shape)
    return done.module, tuple(str(one) for one in done.replaced)
