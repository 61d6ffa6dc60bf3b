"""Calibration: what a model's tensors look like on samples, gathered in flat memory."""
