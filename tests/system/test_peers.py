"""Other projects' quantizers run as the benchmark runs them: on a network that they did not see before."""

from __future__ import annotations

import numpy as np
import pytest
from networks.training import data, trained

from flowlab.compiler.export_onnx import export_onnx
from flowlab.learn.trace import float_graph
from flowlab_zoo.peers import PEERS, Peer, PeerJob


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name.replace(" ", "-"))
def test_a_peer_quantizes_and_its_outputs_are_classes(peer: Peer) -> None:
    assert peer.missing() == ""
    module, found = trained(), data()
    channels, height, width = found.train_features.shape[1:]
    model = export_onnx(float_graph(module, (channels, height, width)), {})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    outputs = peer.outputs(PeerJob(module, model, found, 2, 0), found.val_features)
    assert outputs.shape == (len(found.val_targets), 3)
    assert float((outputs.argmax(1) == found.val_targets).mean()) > (0.5 if "2/8" in peer.name else 0.8)
    assert all(np.array_equal(before[name], value) for name, value in module.state_dict().items())
