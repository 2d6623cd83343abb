"""One plugin of each kind with no more than the contracts of flowlab 0.1 asked for. It is not kept up to date."""

from flowlab.contracts import (
    Core,
    Dataset,
    FeatureExtractor,
    Model,
    Preset,
    Program,
    Quantized,
    Quantizer,
    Reader,
    Recording,
    Target,
)
from flowlab.hookspecs import hookimpl


class OldReader(Reader):
    name = "old"
    suffixes = (".old",)

    def read(self, path, shown, options):
        import numpy as np

        return Recording(shown, "x", np.frombuffer(path.read_bytes(), np.uint8).astype(np.float32)[:, None], ("a",))


class OldDataset(Dataset):
    name = "old"
    synthetic = True

    def recordings(self, seed, options):
        import numpy as np

        random = np.random.default_rng(seed)
        for at in range(4):
            yield Recording(f"{at}", f"{at % 2}", random.standard_normal((64, 1)).astype(np.float32), ("a",))


class OldExtractor(FeatureExtractor):
    name = "old"

    def shape(self, window, options):
        return window[0], window[1], 1

    def extract(self, windows, options):
        return windows[..., None]


class OldModel(Model):
    name = "old"

    def build(self, shape, outputs, options):
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], outputs))


class OldQuantizer(Quantizer):
    name = "old"
    format = ""

    def quantize(self, job, options):
        return Quantized(job.graph)


class OldCore(Core):
    name = "old"


class OldTarget(Target):
    name = "old"
    core = "old"

    def lower(self, job):
        return Program({}, {}, (), 0)


@hookimpl
def flowlab_readers():
    return [OldReader()]


@hookimpl
def flowlab_datasets():
    return [OldDataset()]


@hookimpl
def flowlab_feature_extractors():
    return [OldExtractor()]


@hookimpl
def flowlab_models():
    return [OldModel()]


@hookimpl
def flowlab_quantizers():
    return [OldQuantizer()]


@hookimpl
def flowlab_cores():
    return [OldCore()]


@hookimpl
def flowlab_targets():
    return [OldTarget()]


@hookimpl
def flowlab_presets():
    return [Preset("feature_extraction", "old", {"feature_extraction_name": "old"})]
