"""The one training loop."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flowlab.errors import DataError, OptionError
from flowlab.learn.checkpoint import dump
from flowlab.learn.determinism import seeded
from flowlab.learn.layers import AveragePool, Conv, build_network
from flowlab.learn.loop import FitData, FitSettings, batches, fit, predict

SETTINGS = FitSettings(epochs=4, batch_size=16, learning_rate=0.05, seed=3)


def data(count: int = 120, shift: float = 1.5) -> FitData:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 1, 32, 1)).astype(np.float32)
    targets = np.arange(count, dtype=np.int64) % 2
    features[targets == 1, :, 8:16] += shift
    half = count * 2 // 3
    return FitData(features[:half], targets[:half], features[half:], targets[half:])


def network(seed: int = 3) -> nn.Sequential:
    with seeded(seed, 1):
        module = build_network((Conv(4, (5, 1), (2, 1)), Conv(8, (3, 1)), AveragePool()), (1, 32, 1), 2)
    *layers, head = module
    return nn.Sequential(*layers, nn.Dropout(0.2), head)


def trained(settings: FitSettings = SETTINGS, checkpoint: Path | None = None) -> tuple[bytes, object]:
    module = network()
    history = fit(module, data(), settings, checkpoint=checkpoint)
    return dump(module.state_dict()), history


@pytest.mark.parametrize("optimizer", ["sgd", "SGD", "sgd*nesterov", "rmsprop", "adam", "AdamW"])
def test_two_runs_end_with_the_same_bytes(optimizer: str) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, learning_rate=0.01, epochs=2)
    assert trained(settings) == trained(settings)


def test_another_seed_gives_other_weights() -> None:
    assert trained()[0] != trained(replace(SETTINGS, seed=4))[0]


def test_the_process_and_what_was_drawn_before_do_not_matter() -> None:
    first = trained()
    torch.manual_seed(99)
    torch.rand(7)
    assert trained() == first


def test_the_process_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    fit(network(), data(), replace(SETTINGS, epochs=1, threads=threads + 1))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


def test_it_learns_what_can_be_learned() -> None:
    history = fit(network(), data(shift=3.0), replace(SETTINGS, epochs=12))
    assert history["best_value"] > 0.9
    assert history["warnings"] == []


class Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_training_ends_with_the_bytes_of_an_undisturbed_one(
    stop: int, optimizer: str, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, learning_rate=0.01)
    calls: list[str] = []

    def progress(what: str, done: float) -> None:
        calls.append(what)
        if len(calls) == stop:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), data(), settings, checkpoint=tmp_path / "c", progress=progress)
    trained_again: list[str] = []
    module = network()
    again = fit(
        module, data(), settings, checkpoint=tmp_path / "c", progress=lambda what, done: trained_again.append(what)
    )
    goes_on, *epochs = trained_again
    assert goes_on == f"goes on after epoch {stop} of {settings.epochs}"
    assert len(epochs) == settings.epochs - stop
    assert (dump(module.state_dict()), again) == trained(settings)


KILLED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_loop import trained
    trained(checkpoint=Path({checkpoint!r}))
"""


def test_a_killed_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), checkpoint=str(tmp_path / "c"))
    environment = {**os.environ, "FLOWLAB_FAULT": "epoch:2"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    told: list[str] = []
    module = network()
    fit(module, data(), SETTINGS, checkpoint=tmp_path / "c", progress=lambda what, done: told.append(what))
    assert told[0] == f"goes on after epoch 2 of {SETTINGS.epochs}"
    assert len(told) == 1 + SETTINGS.epochs - 2
    assert dump(module.state_dict()) == trained()[0]


def test_a_checkpoint_of_other_settings_or_data_is_not_continued(tmp_path: Path) -> None:
    trained(replace(SETTINGS, learning_rate=0.01), tmp_path / "c")
    assert trained(SETTINGS, tmp_path / "c") == trained(SETTINGS)
    module, other = network(), data(shift=1.0)
    seen: list[str] = []
    fit(module, other, SETTINGS, checkpoint=tmp_path / "c", progress=lambda what, done: seen.append(what))
    assert len(seen) == SETTINGS.epochs


@pytest.mark.parametrize(("every", "left"), [(1, 5), (2, 4), (3, 3), (7, 0)])
def test_a_checkpoint_is_written_every_so_many_epochs_and_decides_nothing(
    every: int, left: int, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=7)

    def progress(what: str, done: float) -> None:
        if what.startswith("epoch 5 "):
            raise Stop

    with pytest.raises(Stop):
        fit(network(), data(), settings, checkpoint=tmp_path / "c", checkpoint_every=every, progress=progress)
    told: list[str] = []
    module = network()
    history = fit(
        module,
        data(),
        settings,
        checkpoint=tmp_path / "c",
        checkpoint_every=every,
        progress=lambda what, done: told.append(what),
    )
    assert told[0].startswith(f"goes on after epoch {left} of 7" if left else "epoch 1 of 7")
    assert (dump(module.state_dict()), history) == trained(settings)


def test_a_damaged_checkpoint_is_said_and_costs_the_epochs_since_the_one_before(tmp_path: Path) -> None:
    trained(SETTINGS, tmp_path / "c")
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole[:-1])
    told: list[str] = []
    module = network()
    fit(module, data(), SETTINGS, checkpoint=tmp_path / "c", progress=lambda what, done: told.append(what))
    assert told[0] == "goes on after epoch 3 of 4; c is damaged, and is not used"
    assert len(told) == 2
    assert dump(module.state_dict()) == trained()[0]


class Frozen(nn.Module):
    """Freezes in its third epoch; what it is frozen with is part of its state, that it is frozen is not."""

    frozen_by: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.live = True
        self.register_buffer("frozen_by", torch.zeros(1))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        if self.live and epoch >= 2:
            self.live = False
            self.frozen_by += self.inner[0].weight.detach().sum()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.frozen_by


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_module_that_changed_with_the_epochs_is_not_changed_a_second_time(stop: int, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=5)

    def progress(what: str, done: float) -> None:
        if what.startswith(f"epoch {stop} "):
            raise Stop

    one, other = Frozen(), Frozen()
    fit(one, data(), settings)
    with pytest.raises(Stop):
        fit(Frozen(), data(), settings, checkpoint=tmp_path / "c", progress=progress)
    fit(other, data(), settings, checkpoint=tmp_path / "c")
    assert dump(other.state_dict()) == dump(one.state_dict())
    assert other.live is one.live is False


class Scripted(nn.Module):
    """Says what a list holds: the share of right answers in each epoch's validation."""

    def __init__(self, right: list[int]) -> None:
        super().__init__()
        self.right = right
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("epoch", torch.tensor(-1))
        self.epochs_seen: list[tuple[int, int]] = []

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.epochs_seen.append((epoch, epochs))
        self.epoch.fill_(epoch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        index = x[:, 0, 0, 0].long()
        ones = torch.stack([torch.ones(len(x)), torch.zeros(len(x))], 1) + self.weight
        if self.training:
            return ones
        right = index < self.right[int(self.epoch)]
        return torch.where(right[:, None], ones, ones.flip(1))


def scripted(right: list[int]) -> tuple[Scripted, dict[str, object]]:
    features = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    targets = np.zeros(10, dtype=np.int64)
    module = Scripted(right)
    history = fit(
        module, FitData(features, targets, features, targets), replace(SETTINGS, epochs=len(right), batch_size=5)
    )
    return module, dict(history)


def test_the_best_epoch_is_kept_and_not_the_last() -> None:
    module, history = scripted([3, 8, 5])
    assert history["best_epoch"] == 2
    assert history["best_value"] == 0.8
    assert int(module.epoch) == 1  # the weights of that epoch, here a buffer


def test_of_equal_epochs_the_later_is_kept() -> None:
    assert scripted([3, 8, 8, 2])[1]["best_epoch"] == 3


def test_a_module_is_told_each_epoch() -> None:
    assert scripted([1, 2, 3])[0].epochs_seen == [(0, 3), (1, 3), (2, 3)]


def test_the_module_ends_with_what_the_history_says() -> None:
    module, split = network(), data()
    history = fit(module, split, SETTINGS)
    assert not module.training
    reached = float((predict(module, split.val_features).argmax(1) == split.val_targets).mean())
    assert reached == history["best_value"] == max(row["val_accuracy"] for row in history["epochs"])


def test_each_epoch_says_loss_and_metric_of_both_splits() -> None:
    _, history = scripted([3, 8])
    (first, second) = history["epochs"]  # type: ignore[misc]
    assert (first["train_accuracy"], first["val_accuracy"], second["val_accuracy"]) == (1.0, 0.3, 0.8)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))  # logits that differ by 1
    assert first["val_loss"] == pytest.approx(0.3 * right + 0.7 * wrong, rel=1e-5)
    assert second["val_loss"] == pytest.approx(0.8 * right + 0.2 * wrong, rel=1e-5)


def test_no_epochs_leave_the_module_as_it_is_and_measure_it() -> None:
    module = network()
    before = dump(module.state_dict())
    history = fit(module, data(), replace(SETTINGS, epochs=0))
    assert dump(module.state_dict()) == before
    assert history["epochs"] == [] and history["best_epoch"] == 0 and history["warnings"] == []


def test_a_loss_that_is_no_number_names_the_epoch_and_the_cure() -> None:
    with pytest.raises(OptionError, match=r"epoch [12]: the loss is (nan|inf).*learning_rate"):
        fit(network(), data(), replace(SETTINGS, learning_rate=1e30))


def test_a_network_at_chance_level_is_warned_of() -> None:
    history = fit(network(), data(shift=0.0), replace(SETTINGS, epochs=1, learning_rate=1e-9))
    (warning,) = history["warnings"]
    assert "LEARNED NOTHING" in warning


def test_features_that_are_not_finite_name_split_and_window() -> None:
    split = data()
    split.val_features[7, 0, 3, 0] = np.nan
    with pytest.raises(DataError, match=r"validation split has NaN or infinite features \(first in window 7, 1 of 40"):
        fit(network(), split, SETTINGS)


def test_an_empty_split_is_named() -> None:
    split = data()
    empty = FitData(split.train_features[:0], split.train_targets[:0], split.val_features, split.val_targets)
    with pytest.raises(DataError, match="training split is empty"):
        fit(network(), empty, SETTINGS)


@pytest.mark.parametrize(
    ("settings", "suggestion"),
    [
        (replace(SETTINGS, optimizer="sdg"), "Did you mean 'sgd'"),
        (replace(SETTINGS, problem="clasification"), "Did you mean 'classification'"),
        (replace(SETTINGS, lr_scheduler="stepl"), "Did you mean 'steplr'"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(settings: FitSettings, suggestion: str) -> None:
    with pytest.raises(OptionError, match=suggestion):
        fit(network(), data(), settings)


def test_progress_tells_of_each_epoch() -> None:
    told: list[tuple[str, float]] = []
    fit(network(), data(), SETTINGS, progress=lambda what, done: told.append((what, done)))
    assert [done for _, done in told] == [0.25, 0.5, 0.75, 1.0]
    assert told[0][0].startswith("epoch 1 of 4: loss ")


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**63 - 1))
def test_every_window_is_in_one_batch_and_no_batch_is_a_single_window(count: int, size: int, seed: int) -> None:
    made = list(batches(count, size, seed))
    assert sorted(int(i) for batch in made for i in batch) == list(range(count))
    if size > 1 and count > 1:
        assert all(2 <= len(batch) <= size + 1 for batch in made)


def test_predictions_do_not_depend_on_the_batch_and_keep_the_mode() -> None:
    module, split = network().train(), data()
    split.train_features.flags.writeable = False
    one, many = predict(module, split.train_features, 1000), predict(module, split.train_features, 7)
    assert one.shape == (80, 2)
    assert np.allclose(one, many, atol=1e-6)
    assert module.training


class Teacher(nn.Module):
    """Says the opposite of the labels of `data`, or what it is told."""

    def __init__(self, sign: float = -1.0) -> None:
        super().__init__()
        self.sign, self.asked = sign, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        high = x[:, 0, 8:16, 0].mean(1) > 0.75
        return self.sign * 6 * torch.stack((~high, high), 1).float()


def test_a_teacher_is_learned_from_and_asked_once_for_each_window() -> None:
    teacher, given = Teacher(), data(shift=3.0)
    settings = replace(SETTINGS, epochs=8, distillation=1.0)
    history = fit(network(), given, settings, teacher=teacher)
    assert teacher.asked == len(given.train_features)
    assert history["epochs"][-1]["val_accuracy"] < 0.2  # the labels have no share


def test_without_a_share_a_teacher_changes_no_bit() -> None:
    alone, taught = network(), network()
    fit(alone, data(), SETTINGS)
    fit(taught, data(), SETTINGS, teacher=Teacher())
    assert dump(alone.state_dict()) == dump(taught.state_dict())


def test_a_training_with_another_teacher_is_not_continued(tmp_path: Path) -> None:
    settings = replace(SETTINGS, distillation=0.5)
    fit(network(), data(), settings, checkpoint=tmp_path / "c", teacher=Teacher())
    said: list[str] = []
    fit(
        network(),
        data(),
        settings,
        checkpoint=tmp_path / "c",
        progress=lambda what, done: said.append(what),
        teacher=Teacher(1.0),
    )
    assert len(said) == settings.epochs


def test_one_cycle_follows_the_steps_so_that_one_epoch_has_all_of_it() -> None:
    settings = replace(SETTINGS, epochs=1, batch_size=8, lr_scheduler="onecyclelr")
    (row,) = fit(network(), data(), settings)["epochs"]
    assert 0 < row["learning_rate"] < 0.1 * SETTINGS.learning_rate  # that of the last of ten steps
