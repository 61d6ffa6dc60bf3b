"""Pruning of channels directly on the ONNX graph."""
