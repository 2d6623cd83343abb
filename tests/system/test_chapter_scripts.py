"""The chapter's scripts as they stand: the import line is ours, and the names that they leave open are supplied."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from flowlab_tinpu.torchmodelopt import convert_to_lite_fx, get_replacement_dict_default

pytestmark = pytest.mark.system

NAMES = {"tinyml_torchmodelopt.quantization", "tinyml_torchmodelopt.surgery"}
OURS = "flowlab_tinpu.torchmodelopt"
LEFT_OUT = "# loss, backward(), optimizer step as usual"  # of the first script's loop
LOOP = """
model.train()
for e in range(epochs):
    for images, target in train_loader:
        {}
model.eval()
"""  # the second script leaves all of it to the first
WINDOW, CLASSES, EPOCHS = (1, 256, 1), 3, 6  # the scripts say the window's shape


def windows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three frequencies in noise, float32 (count, 1, 256, 1), and which one it is."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    places = np.arange(WINDOW[1])[None, :]
    series = np.sin(places * (0.1 + 0.15 * labels[:, None]) + random.uniform(0, 6, (count, 1)))
    series += random.normal(0, 0.8, series.shape)
    return torch.from_numpy(series.astype(np.float32)[:, None, :, None]), torch.from_numpy(labels)


def network() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 8, (7, 1), stride=(2, 1)), nn.BatchNorm2d(8), nn.GELU(),
        nn.Conv2d(8, 12, (5, 1), stride=(2, 1)), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES),
    )  # fmt: skip


TRAIN, TEST = windows(600, 1), windows(300, 2)


def batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(TRAIN[0].split(50), TRAIN[1].split(50), strict=True))


def trainer(rate: float) -> Callable[[nn.Module, Tensor, Tensor], None]:
    """What the scripts call "as usual": cross entropy and Adam over the model that they train."""
    made: dict[str, torch.optim.Optimizer] = {}

    def step(model: nn.Module, output: Tensor, target: Tensor) -> None:
        optimizer = made.setdefault("adam", torch.optim.Adam(model.parameters(), rate))
        optimizer.zero_grad()
        nn.functional.cross_entropy(output, target).backward()
        optimizer.step()

    return step


@pytest.fixture(scope="module")
def pretrained() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model, step = network(), trainer(0.01)
    for _ in range(EPOCHS):
        for features, target in batches():
            step(model, model(features), target)
    assert right(model.eval()(TEST[0])) > 0.95
    return model.state_dict()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: dict[str, Tensor]) -> Path:
    """Where a script runs: the file that it loads is there."""
    monkeypatch.chdir(tmp_path)
    torch.save(pretrained, "pretrained.pth")
    return tmp_path


def right(outputs: Tensor) -> float:
    return float((outputs.argmax(1) == TEST[1]).float().mean())


def shipped(file: Path) -> float:
    """Accuracy of an exported file."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return right(torch.from_numpy(np.asarray(session.run(None, {"input": TEST[0].numpy()})[0])))


def script(shared: Path, name: str) -> str:
    """The text with our import line."""
    text = (shared / "reference" / "chapter-examples" / f"{name}.py").read_text()
    for theirs in NAMES:
        text = text.replace(f"from {theirs} import", f"from {OURS} import")
    assert "tinyml_torchmodelopt" not in text
    return text


def run(text: str, **names: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"torch": torch, "MyNeuralNetwork": network, "epochs": EPOCHS, **names}
    exec(compile(text, "script", "exec"), space)
    return space


@pytest.mark.parametrize("bits", [8, 4])
def test_the_training_script_ships_a_network_as_good_as_the_float_one(
    shared: Path, place: Path, pretrained: dict[str, Tensor], bits: int
) -> None:
    text = script(shared, "8.2.16-1-tinpu-qat")
    assert LEFT_OUT in text
    text = text.replace(LEFT_OUT, "step(model, output, target)")
    if bits != 8:
        width = f"{{'weight': {{'bitwidth': {bits}}}, 'activation': {{'bitwidth': 8}}}}"
        text = text.replace("total_epochs=epochs)", f"total_epochs=epochs, qconfig_type={width})")
        assert width in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the loop says train() once; its windows come again, so its epochs are known
        space = run(text, train_loader=batches(), step=trainer(0.002))
    float_network = network()
    float_network.load_state_dict(pretrained)
    assert shipped(place / "model_int8.onnx") >= right(float_network.eval()(TEST[0])) - 0.01
    with torch.no_grad():
        assert shipped(place / "model_int8.onnx") == right(space["model"](TEST[0]))


def test_a_script_that_trains_nothing_is_told_so(shared: Path, place: Path) -> None:
    """To the letter: the loop's comment stands where the step would be."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(script(shared, "8.2.16-1-tinpu-qat"), train_loader=batches())
    assert any(re.match(r"0 of \d+ weights changed since wrapping", str(one.message)) for one in said)
    assert (place / "model_int8.onnx").is_file()


def test_the_generic_script_differs_in_its_class_alone(shared: Path, place: Path) -> None:
    loop = LOOP.format("step(model, model(images), target)")
    text = script(shared, "8.2.16-2-generic-qat").replace("# ...", loop)
    assert loop in text
    run(text, train_loader=batches(), step=trainer(0.002), dummy_input=torch.rand((1, *WINDOW)))
    assert shipped(place / "model_int8.onnx") > 0.94


def test_the_script_without_training_needs_no_labels(shared: Path, place: Path, pretrained: dict[str, Tensor]) -> None:
    model = network()
    model.load_state_dict(pretrained)
    dummy = torch.rand((1, *WINDOW))
    run(script(shared, "8.2.16-3-tinpu-ptq"), model=model, calibration_loader=batches(), dummy_input=dummy)
    assert shipped(place / "model_int8.onnx") > 0.94
    example = TEST[0][:4]
    space = run(script(shared, "8.2.16-4-onnxruntime"), example_input=example)
    assert np.asarray(space["prediction"][0]).shape == (4, CLASSES)


def test_the_scripts_of_surgery_replace_what_they_name(shared: Path) -> None:
    model = run(script(shared, "8.2.18-1-surgery"), model=network())["model"]
    assert not any(isinstance(part, nn.GELU) for part in model.modules())
    model = run(script(shared, "8.2.18-2-surgery-custom"), model=network())["model"]
    assert not any(isinstance(part, nn.GELU) for part in model.modules())
    whole = network()
    whole.add_module("my_layer", nn.Tanh())
    space = run(
        script(shared, "8.2.18-3-surgery-function"),
        model=whole,
        convert_to_lite_fx=convert_to_lite_fx,
        replacement_dict=get_replacement_dict_default(),
        my_replacement_function=lambda module: nn.ReLU(),
    )
    assert isinstance(space["model"].my_layer, nn.ReLU)
