import pytest
import torch

from flowlab.contracts import StageJob
from flowlab.plugins import load
from flowlab_pruning.plugin import PruneOptions
from flowlab_pruning.prune import prune, run

STATE = {
    "conv.weight": torch.tensor([[[0.1, -0.2], [0.3, -0.4]], [[1.0, 2.0], [3.0, 4.0]]]),
    "conv.bias": torch.tensor([0.0001, 0.0002]),
    "fc.weight": torch.tensor([[10.0, -20.0], [-0.5, 40.0]]),
    "norm.num_batches_tracked": torch.tensor(7),
}


def test_the_package_brings_its_stage_and_nothing_of_it_is_broken():
    catalogue = load()
    assert "flowlab-pruning" not in catalogue.broken
    assert catalogue.stage_of("pruning").rewrites == ("float_model",)


def test_the_smallest_weights_of_each_layer_become_zero_and_biases_stay():
    pruned = prune(STATE, PruneOptions(0.5))
    assert pruned["conv.weight"].flatten().tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    assert pruned["fc.weight"].flatten().tolist() == [0, -20, 0, 40]
    assert set(pruned) == {"conv.weight", "fc.weight"}


def test_over_the_whole_network_small_layers_lose_all_they_have_to():
    pruned = prune(STATE, PruneOptions(0.5, "network"))
    assert pruned["fc.weight"].flatten().tolist() == [10, -20, 0, 40]
    assert pruned["conv.weight"].flatten().tolist() == [0, 0, 0, 0, 0, 2, 3, 4]


def test_the_input_is_left_alone_and_nothing_is_pruned_by_an_amount_of_zero():
    before = {name: value.clone() for name, value in STATE.items()}
    pruned = prune(STATE, PruneOptions(0.0))
    prune(STATE, PruneOptions(0.9))
    assert all(torch.equal(STATE[name], before[name]) for name in STATE)
    assert all(torch.equal(pruned[name], STATE[name]) for name in pruned)


@pytest.mark.parametrize("amount", [-0.1, 1.0, 7])
def test_an_amount_that_is_no_share_is_refused(amount):
    with pytest.raises(ValueError, match="expected 0 to below 1"):
        PruneOptions(amount)


def test_the_stage_writes_the_same_names_and_equal_bytes_twice(tmp_path):
    source = tmp_path / "best_model.pt"
    torch.save(STATE, source)
    written = []
    for name in ("one", "two"):
        out = tmp_path / name
        out.mkdir()
        job = StageJob({"float_model": {source.name: source}}, PruneOptions(), {}, {}, out, tmp_path, print)
        result = run(job)
        written.append(result.files["float_model"]["best_model.pt"].read_bytes())
    assert written[0] == written[1]
    assert result.metrics["zeros"] == 3  # int(0.3 * 8) + int(0.3 * 4)
    state = torch.load(tmp_path / "one" / "best_model.pt", weights_only=True)
    assert set(state) == set(STATE)
    assert torch.equal(state["conv.bias"], STATE["conv.bias"])
