"""Integer ONNX of other tools: what its tensors mean, and a graph of the same integers."""
