"""What is known of a compilation before it is begun: device, operators, and what float layers will be computed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench import jobs
from workbench.backends._openvino_session import load_runtime
from workbench.backends._openvino_support import unsupported
from workbench.engine import BuildCheck
from workbench.jobs import Progress
from workbench.model import Model
from workbench.support import Unsupported


def missing_devices(device: str, found: Sequence[str]) -> list[str]:
    """The devices in a name such as `CPU` or `AUTO:GPU,CPU` that are not there; `AUTO` alone takes what there is."""
    first, _, listed = device.partition(":")
    wanted = [name for name in listed.split(",") if name] if first == "AUTO" else [device]
    return [name for name in wanted if name not in found]


def check_setting(model: Model, device: str, precision: str, hint: str) -> tuple[BuildCheck, ...]:
    """Looks at the device, the precision, the hint, and in a subprocess at the operators."""
    core = load_runtime().Core()
    if missing := missing_devices(device, core.available_devices):
        return (
            BuildCheck(
                "refused",
                f"OpenVINO finds no {', '.join(missing)} here: it finds {', '.join(core.available_devices)}.",
                "Choose one of these, or install the device's driver.",
            ),
        )
    refused = jobs.run(_find_unsupported, model, progress=jobs.silent)
    return (
        *(BuildCheck("refused", f"{each.operator}: {each.reason}", each.remedy) for each in refused),
        *_check_precision(model, core, device, precision),
        *_check_hint(device, hint),
    )


def _find_unsupported(model: Model, progress: Progress) -> tuple[Unsupported, ...]:
    progress(0.1, "asking OpenVINO for each operator")
    return unsupported(model)


def _check_precision(model: Model, core: object, device: str, precision: str) -> Iterator[BuildCheck]:
    if device.startswith("AUTO"):
        return
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")  # type: ignore[attr-defined]
    if precision == "auto" and device == "CPU" and "BF16" in able:
        yield BuildCheck(
            "doubt",
            f"OpenVINO will compute the float layers of {model.name} in bfloat16, which has 8 significant bits, though "
            "nobody asked for it: this processor has instructions for it.",
            "Set precision to float32 to keep to the model, or to bfloat16 to say that it is meant.",
        )
    if precision == "bfloat16" and "BF16" not in able:
        yield BuildCheck(
            "doubt",
            f"{device} has no instructions for bfloat16 here, so that layers will be computed in another type.",
            "Look at the runner's placement, which tells in which; or set precision to auto.",
        )


def _check_hint(device: str, hint: str) -> Iterator[BuildCheck]:
    if hint == "cumulative" and not device.startswith("AUTO"):
        yield BuildCheck(
            "doubt",
            f"On {device} alone the hint cumulative does the same as throughput.",
            "Set the device to AUTO to spread inferences over all devices.",
        )
