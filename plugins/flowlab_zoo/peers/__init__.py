"""Other projects' quantizers, where they are installed: benchmarks run them on the same network and windows.

Nothing here is used by a run.
"""

from __future__ import annotations

from flowlab_zoo.peers import brevitas, onnxruntime, torchao
from flowlab_zoo.peers.peer import Peer, PeerJob, quiet, trained

__all__ = ["PEERS", "Peer", "PeerJob", "quiet", "trained"]

PEERS: tuple[Peer, ...] = (*onnxruntime.PEERS, *brevitas.PEERS, *torchao.PEERS)
