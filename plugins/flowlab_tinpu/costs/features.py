"""What the estimate knows of a network: a few counts, without the channels that padding adds.

A layer that was split counts with the zeros between its groups, so there is no estimate of such a network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowlab.compiler.infer import integer, integers

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node

FEATURES = ("outputs", "weights", "unaligned_outputs", "macs")
POOLS = ("max_pool", "sum_pool", "average_pool")
COUNTED = ("conv", "linear", *POOLS)
FOUR = 4
UNEVEN = 0.25  # of an average's weights, off their mean: training of CLS_4k on integers of 8 bits moved one by 0.11


def features(graph: Graph) -> dict[str, int]:
    """Counts over a float or an integer graph.

    Returns:
        ``outputs``: values that convolutions, fully connected layers and pools make; ``weights``: of convolutions and
        fully connected layers; ``unaligned_outputs``: values of convolutions whose input channels are more than one
        and no multiple of 4; ``macs``: multiply-accumulates of one window.
    """
    found = dict.fromkeys(FEATURES, 0)
    for node in graph.nodes:
        if node.op not in COUNTED:
            continue
        made = integer(node, "channels", node.type.shape[0])
        places = math.prod(node.type.shape[1:])
        found["outputs"] += made * places
        if node.op in POOLS or is_average(node):
            continue
        weights = _weights(node, made)
        found["weights"] += weights
        found["macs"] += weights * places
        read = _fan_in(node)
        if node.op == "conv" and integer(node, "groups") == 1 and read > 1 and read % FOUR:
            found["unaligned_outputs"] += made * places
    return found


def is_average(node: Node) -> bool:
    """Whether a convolution is an average over parts, which is written with weights that are all alike.

    The published networks have an average pool there, and load no weights for it. Training on integers moves the
    weights a little; what is still nearly even over a window that skips no place was no convolution before.
    """
    import numpy as np

    from flowlab.compiler.channels import is_depthwise

    if node.op != "conv" or not is_depthwise(node):
        return False
    window, stride = node.constants["weight"].shape[2:], integers(node, "stride", 2)
    if math.prod(window) == 1 or any(side < step for side, step in zip(window, stride, strict=True)):
        return False
    own = node.constants["weight"][: integer(node, "channels", node.type.shape[0])].astype(np.float64)
    mean = own.mean(axis=(1, 2, 3), keepdims=True)
    return bool((mean > 0).all() and (abs(own - mean) <= UNEVEN * mean).all())


def _fan_in(node: Node) -> int:
    """Input channels or features of one output, without those that padding added."""
    inner = int(node.constants["weight"].shape[1])
    return integer(node, "in_channels", inner) if node.op == "linear" or integer(node, "groups") == 1 else inner


def _weights(node: Node, made: int) -> int:
    return made * _fan_in(node) * math.prod(node.constants["weight"].shape[2:])
