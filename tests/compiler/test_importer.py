"""The importer reads our own export back to the same text, foreign float networks, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.compiler import interpreter, text
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.importer import import_onnx
from flowlab.errors import GraphError

from .random_graphs import random_graph


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=60)
def test_an_exported_graph_is_imported_to_the_same_text(seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    assert text.print_graph(import_onnx(export_onnx(graph, {}))) == text.print_graph(graph)
