"""What OpenVINO does not run, from its own refusal."""

from __future__ import annotations

import re
from importlib.metadata import version

from workbench.backends._openvino_session import load_runtime
from workbench.model import Model
from workbench.support import Unsupported, make_probes


def unsupported(model: Model) -> tuple[Unsupported, ...]:
    """Reads the whole model: OpenVINO then lists every operator that it has no conversion for."""
    try:
        load_runtime().Core().read_model(model.path)
    except RuntimeError as error:
        found = re.search(r"No conversion rule found for operations: (.+)", str(error))
        # `my.company.Swirl`, and `Det-17` for ONNX's own of opset 17
        refused = {re.sub(r"-\d+$", "", name.strip()) for name in found[1].split(",")} if found else set()
        return tuple(
            Unsupported(
                probe.operator,
                f"OpenVINO {version('openvino')} has no conversion for it.",
                probe.nodes,
                "Use another backend, or export the model with other operators.",
            )
            for probe in make_probes(model)
            if probe.operator.replace(":", ".") in refused
        )
    return ()
