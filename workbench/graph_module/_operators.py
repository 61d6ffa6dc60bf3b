"""ONNX's elementwise, reducing and matrix operators in PyTorch, as the ONNX operator specification defines them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.graph_module._node import Node, Operator, Values, given, numbers
from workbench.graph_module._shapes import SHAPES

if TYPE_CHECKING:
    import torch


def _torch(name: str) -> Operator:
    """The operator that PyTorch has under this name, for any number of tensors."""

    def run(node: Node, inputs: Values, training: bool) -> Any:
        import torch

        return getattr(torch, name)(*inputs)

    return run


def _functional(name: str, **renamed: tuple[str, Any]) -> Operator:
    """The function of one tensor in torch.nn.functional; its keywords by attribute, with ONNX's defaults."""

    def run(node: Node, inputs: Values, training: bool) -> Any:
        from torch.nn import functional

        keywords = {key: node.get(attribute, default) for key, (attribute, default) in renamed.items()}
        return getattr(functional, name)(inputs[0], **keywords)

    return run


def _folded(name: str) -> Operator:
    """An operator of two tensors applied from left to right to any number."""

    def run(node: Node, inputs: Values, training: bool) -> Any:
        import torch

        result = inputs[0]
        for value in inputs[1:]:
            result = getattr(torch, name)(result, value)
        return result

    return run


# --- elementwise ---------------------------------------------------------------------------------------------------


def _divide(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    left, right = inputs
    assert left is not None
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() else "trunc")


def _power(node: Node, inputs: Values, training: bool) -> Any:
    base, exponent = inputs
    assert base is not None
    return base.pow(exponent).to(base.dtype)


def _clip(node: Node, inputs: Values, training: bool) -> Any:
    low, high = (node.get(name, given(inputs, place)) for place, name in ((1, "min"), (2, "max")))
    value: Any = inputs[0]
    return value if low is None and high is None else value.clamp(low, high)


def _hard_sigmoid(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    return (node.get("alpha", 0.2) * value + node.get("beta", 0.5)).clamp(0, 1)


def _gelu(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    return functional.gelu(inputs[0], approximate=node.get("approximate", "none"))


def _prelu(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    value, slope = inputs
    assert value is not None
    return torch.where(value < 0, value * slope, value)


def _softmax(name: str) -> Operator:
    def run(node: Node, inputs: Values, training: bool) -> Any:
        import torch

        value: Any = inputs[0]
        if node.opset >= 13:
            return getattr(torch, name)(value, node.get("axis", -1))
        axis = node.get("axis", 1) % value.ndim  # until opset 13 all axes from here on were one
        return getattr(torch, name)(value.flatten(axis), axis).reshape(value.shape)

    return run


def _cast(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    return value.to(_dtype(node, node.get("to")))


def _dtype(node: Node, number: int) -> torch.dtype:
    import onnx
    import torch

    name = str(onnx.helper.tensor_dtype_to_np_dtype(number))
    dtype: torch.dtype | None = getattr(torch, name, None)
    if dtype is None:
        raise node.refuse(f"it makes {name}")
    return dtype


def _same(node: Node, inputs: Values, training: bool) -> Any:
    """Identity; Dropout too, since a graph made for inference has lost how much it was trained with."""
    import torch

    value: Any = inputs[0]
    return (value, torch.ones_like(value, dtype=torch.bool))[: len(node.outputs)]


# --- matrices ------------------------------------------------------------------------------------------------------


def _gemm(node: Node, inputs: Values, training: bool) -> Any:
    left, right = inputs[0], inputs[1]
    assert left is not None
    assert right is not None
    left = left.t() if node.get("transA", 0) else left
    right = right.t() if node.get("transB", 0) else right
    product = node.get("alpha", 1.0) * (left @ right)
    bias = given(inputs, 2)
    return product if bias is None else product + node.get("beta", 1.0) * bias


def _einsum(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    return torch.einsum(node.get("equation"), *inputs)


# --- reducing ------------------------------------------------------------------------------------------------------


def _reduce(name: str) -> Operator:
    def run(node: Node, inputs: Values, training: bool) -> Any:
        import torch

        value: Any = inputs[0]
        axes = numbers(node, inputs, "axes", 1)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return value
            axes = list(range(value.ndim))
        keep = bool(node.get("keepdims", 1))
        if name == "l2":
            return torch.linalg.vector_norm(value, dim=axes, keepdim=keep)
        return getattr(torch, name)(value, dim=axes, keepdim=keep)

    return run


# Those that PyTorch has under the same name in small letters.
_PLAIN = (
    *("Relu", "Sigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Log", "Abs", "Neg", "Floor", "Ceil", "Round", "Sin", "Cos"),
    *("Sign", "Reciprocal", "Where", "MatMul"),
)

ELEMENTWISE: Mapping[str, Operator] = {
    **{name: _torch(name.lower()) for name in _PLAIN},
    **{name: _folded(name.lower()) for name in ("Add", "Sub", "Mul")},
    **{"Sum": _folded("add"), "Max": _folded("maximum"), "Min": _folded("minimum")},
    **{"Equal": _torch("eq"), "Less": _torch("lt"), "LessOrEqual": _torch("le"), "Greater": _torch("gt")},
    **{"GreaterOrEqual": _torch("ge"), "Not": _torch("logical_not"), "And": _torch("logical_and")},
    **{"Or": _torch("logical_or"), "Xor": _torch("logical_xor"), "IsNaN": _torch("isnan")},
    **{"HardSwish": _functional("hardswish"), "Softplus": _functional("softplus"), "Mish": _functional("mish")},
    **{"Softsign": _functional("softsign"), "Selu": _functional("selu")},
    "LeakyRelu": _functional("leaky_relu", negative_slope=("alpha", 0.01)),
    "Elu": _functional("elu", alpha=("alpha", 1.0)),
    "Celu": _functional("celu", alpha=("alpha", 1.0)),
    **{"Div": _divide, "Pow": _power, "Clip": _clip, "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "PRelu": _prelu},
    **{"Softmax": _softmax("softmax"), "LogSoftmax": _softmax("log_softmax"), "Cast": _cast},
    **{"Identity": _same, "Dropout": _same, "Gemm": _gemm, "Einsum": _einsum},
    **{"ReduceMean": _reduce("mean"), "ReduceSum": _reduce("sum"), "ReduceL2": _reduce("l2")},
    **{"ReduceMax": _reduce("amax"), "ReduceMin": _reduce("amin")},
    **SHAPES,
}
