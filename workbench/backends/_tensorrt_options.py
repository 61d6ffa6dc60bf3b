"""The options of TensorRT, and what becomes of them on the package and the machine that are here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from workbench.backends._tensorrt_package import Choice, Package, gpu_target
from workbench.engine import BuildCheck
from workbench.options import option

Target: TypeAlias = Literal["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"]
WITHOUT_GPU: Target = "SM89"  # built for where there is no GPU: the oldest that has every precision


@dataclass(frozen=True)
class Options:
    """What the plan is built for. Its precision is the model's: casts and Q/DQ nodes."""

    targets: Annotated[
        tuple[Target, ...],
        option(
            "Compute capabilities to build for, several in one plan: 75 Turing, 80 and 86 Ampere, 89 Ada, 120 and 121 "
            "Blackwell. The GPU here if none is given; SM89 where there is none.",
            example="SM86, SM89",
        ),
    ] = ()
    batch: Annotated[int, option("The batch to make fastest, of a dynamic one.", minimum=1, unit="samples")] = 1
    max_batch: Annotated[int, option("The largest batch, of a dynamic one.", minimum=1, unit="samples")] = 32
    profiles: Annotated[
        tuple[str, ...],
        option(
            "Optimization profiles, for models with other dynamic axes than the batch: smallest, usual and largest "
            "shape of each dynamic input, inputs parted by semicolons.",
            example="ids: 1x1 1x128 8x512; mask: 1x1 1x128 8x512",
        ),
    ] = ()
    workspace_mb: (
        Annotated[
            int,
            option("The most scratch memory that a layer may take; no limit if not given.", minimum=1, unit="MB"),
        ]
        | None
    ) = None
    tf32: Annotated[
        bool,
        option("Multiply float32 in TF32, with 10 bits behind the point: faster, and less exact than the model says."),
    ] = False
    package: Annotated[
        Choice,
        option(
            "NVIDIA's package that builds: auto takes tensorrt where it is installed and a GPU is here, else "
            "tensorrt_rtx.",
            advanced=True,
        ),
    ] = "auto"
    optimization_level: (
        Annotated[
            int,
            option(
                "How long to look for a fast plan; TensorRT takes 3 if not given. Not for TensorRT-RTX.",
                minimum=0,
                maximum=5,
                advanced=True,
                example="5",
            ),
        ]
        | None
    ) = None
    timing_cache: Annotated[
        bool,
        option("Keep what was timed for later builds; TensorRT-RTX times nothing while it builds.", advanced=True),
    ] = True
    refittable: Annotated[
        bool, option("A plan that can take new weights; building one needs a GPU.", advanced=True)
    ] = False
    weight_streaming: Annotated[bool, option("A plan that can leave weights in the host's memory.", advanced=True)] = (
        False
    )
    hardware_compatibility: Annotated[
        Literal["none", "ampere_plus", "same_compute_capability"],
        option("Other GPUs that the plan shall run on, somewhat slower. Not for TensorRT-RTX.", advanced=True),
    ] = "none"
    gpu: Annotated[int, option("Number of the GPU to build on and to run on.", minimum=0, advanced=True)] = 0
    cuda_graphs: Annotated[
        bool, option("Record the work of an inference once and launch it as one, where it runs.", advanced=True)
    ] = True
    weight_budget_mb: (
        Annotated[
            int,
            option(
                "Weights that stay on the GPU when others are streamed; as many as there is room for if not given.",
                minimum=0,
                unit="MB",
                advanced=True,
            ),
        ]
        | None
    ) = None


def resolve(options: Options, package: Package) -> Options:
    """What the options come to here: the package by its name, the targets, and no knob that does nothing."""
    targets = options.targets
    if package.targets and not targets:
        targets = (gpu_target(options.gpu) or WITHOUT_GPU,)  # type: ignore[assignment] # a GPU that has no plans is refused later
    return replace(
        options,
        package=package.name,  # type: ignore[arg-type] # one of the two
        targets=tuple(dict.fromkeys(targets)),
        timing_cache=options.timing_cache and package.timing_cache,
    )


def device_of(options: Options) -> str:
    """What a plan of these options runs on, e.g. `SM80+SM89`; `no GPU` where it takes one and there is none."""
    return "+".join(options.targets) or gpu_target(options.gpu) or "no GPU"


def option_faults(options: Options, package: Package) -> Iterator[BuildCheck]:
    """What these options ask for that this package, or this machine, does not do; each is refused."""
    defaults = Options()
    for name, there in {
        "targets": package.targets,
        "optimization_level": package.optimization_level,
        "hardware_compatibility": package.hardware_compatibility,
        "refittable": package.refit,
        "weight_streaming": package.weight_streaming,
    }.items():
        if not there and getattr(options, name) != getattr(defaults, name):
            yield BuildCheck(
                "refused",
                f"{package.title} has no use for the option '{name}'.",
                f"Leave '{name}' out, or choose the other package.",
            )
    if options.weight_budget_mb is not None and not options.weight_streaming:
        yield BuildCheck(
            "refused",
            "'weight_budget_mb' is given, but no weights are streamed.",
            "Set 'weight_streaming', or leave 'weight_budget_mb' out.",
        )
    for target in resolve(options, package).targets if package.targets else ():
        if target not in package.module.ComputeCapability.__members__:
            yield BuildCheck(
                "refused",
                f"{package.title} builds no plans for the GPU here, {target}.",
                "Choose targets that it has, or install tensorrt, which builds for the GPU that is here.",
            )
