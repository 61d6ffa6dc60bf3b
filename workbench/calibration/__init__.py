"""Calibration: what a model's tensors hold on samples, gathered in flat memory, and the ranges that follow."""

from workbench.calibration.collect import Statistics as Statistics
from workbench.calibration.collect import collect as collect
from workbench.calibration.histogram import Histogram as Histogram
from workbench.calibration.observe import observe as observe
from workbench.calibration.ranges import Method as Method
from workbench.calibration.ranges import Range as Range
from workbench.calibration.ranges import as_float32 as as_float32
from workbench.calibration.ranges import find_range as find_range
