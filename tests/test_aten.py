"""Traced functions: every operation that is translated computes what torch does, the others are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gencodec.errors import GencodecError
from gencodec.export.aten import to_onnx
from gencodec.runtime.session import open_session

Function = Callable[[Tensor, Tensor], Tensor | Sequence[Tensor]]
SHAPE = (6, 8)


def inputs(seed: int = 0) -> list[Tensor]:
    """Two random matrices; some elements of both are equal, and some are small whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    a[0], b[1] = torch.arange(-4.0, 4.0), torch.arange(-3.0, 5.0)
    b[2] = a[2]
    return [a, b]


def assert_parity(function: Function) -> onnx.ModelProto:
    """ONNX Runtime gives what torch gives, on the traced arguments and on others."""

    def listed(*arguments: Tensor) -> list[Tensor]:
        result = function(*arguments)
        return [result] if isinstance(result, Tensor) else list(result)

    count = len(listed(*inputs()))
    outputs = [f"out{i}" for i in range(count)]
    model = to_onnx(listed, dict(zip("ab", inputs(), strict=True)), outputs)
    for optimize in (True, False):
        session = open_session(model.SerializeToString(), threads=1, device="cpu", optimize=optimize)
        assert [output.name for output in session.get_outputs()] == outputs
        for seed in range(3):
            arguments = inputs(seed)
            fed = {name: a.numpy() for name, a in zip("ab", arguments, strict=True)}
            for result, expected in zip(session.run(None, fed), listed(*arguments), strict=True):
                found = np.asarray(result)
                assert found.shape == tuple(expected.shape)
                np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    return model


FORWARD: dict[str, Function] = {
    "add": lambda a, b: a + b,
    "add number": lambda a, b: a + 1.5,
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: 2.5 - a,
    "mul": lambda a, b: a * b[:1],
    "div": lambda a, b: a / (b.abs() + 1),
    "reciprocal by number": lambda a, b: a / 3,
    "neg, abs": lambda a, b: (-a, a.abs()),
    "floor": lambda a, b: torch.floor(a * 3),
    "sgn": lambda a, b: torch.sgn(a),
    "exp, exp2": lambda a, b: (torch.exp(a), torch.exp2(b)),
    "log2": lambda a, b: torch.log2(a.abs() + 0.1),
    "erf, sigmoid": lambda a, b: (torch.erf(a), torch.sigmoid(b)),
    "pow": lambda a, b: (a**2, a.abs() ** 1.5, 2.0**b),
    "minimum, maximum": lambda a, b: (torch.minimum(a, b), torch.maximum(a, b)),
    "clamp": lambda a, b: (a.clamp(-0.5, 0.7), a.clamp(min=0.1), b.clamp(max=0.2), a.clamp_min(0.3)),
    "clamp by tensors": lambda a, b: a.clamp(b - 1, b + 1),
    "hardtanh": lambda a, b: F.hardtanh(a, -0.3, 0.6),
    "comparisons": lambda a, b: [torch.where(c, a, b) for c in (a >= b, a > b, a <= b, a < b, a == b)],
    "comparisons with numbers": lambda a, b: [torch.where(c, a, b) for c in (a >= 1, a > 1, a <= 1, a < 1, a == 1)],
    "logical and": lambda a, b: torch.where(torch.logical_and(a > 0, b > 0), a, b),
    "where with numbers": lambda a, b: (torch.where(a > 0, 1.0, b), torch.where(a > b, a, -2.0)),
    "masked fill": lambda a, b: a.masked_fill(b > 0, 3.0),
    "full like": lambda a, b: torch.where(a > 0, torch.full_like(a, 7.0), b),
    "ones like": lambda a, b: torch.ones_like(a) - b,
    "arange": lambda a, b: a * torch.arange(8),
    "matrix product": lambda a, b: a @ b.t(),
    "transposed products": lambda a, b: (a.t() @ b, a.t() @ b[:, :6].t()),
    "transposed elsewhere": lambda a, b: (a.t() * 2, a.t().t() + b),
    "addmm": lambda a, b: torch.addmm(a[:, :6], a, b.t()),
    "addmm with a column": lambda a, b: torch.addmm(a[:, :1], a, b.t()),
    "permute": lambda a, b: (a.permute(1, 0) * 2, a[None].permute(2, 0, -2)),
    "cat": lambda a, b: (torch.cat([a, b]), torch.cat([a, b, a], 1), torch.cat([a, b], -1)),
    "stack": lambda a, b: (torch.stack([a, b]), torch.stack([a, b], 1), torch.stack([a, b], -1)),
    "slice": lambda a, b: (a[1:4], a[:, 2:], a[:-2], a[:, -3:-1], a[::2], a[1:, 1::3]),
    "split": lambda a, b: (*a.split([1, 2, 3]), *b.split(2), *a.split([5, 3], 1)),
    "chunk": lambda a, b: a.chunk(3),
    "select": lambda a, b: (a[2], b[-1], a[:, 3], a[1, 2]),
    "unbind": lambda a, b: (*a.unbind(), *b.unbind(1)),
    "view": lambda a, b: (a.view(3, 16), a.reshape(-1), a.flatten(), a.view(2, 3, -1)),
    "unsqueeze, squeeze": lambda a, b: (a[None], a[:, None] * b[None], a[:1].squeeze(0)),
    "expand": lambda a, b: (a[:1].expand(6, 8), a[:, None].expand(-1, 2, -1)),
    "sum": lambda a, b: (a.sum(), a.sum(0), a.sum(1, keepdim=True), a.sum((0, 1)), a.sum(-1)),
    "mean": lambda a, b: a.mean(),
    "tensordot": lambda a, b: torch.tensordot(a.t(), b * 2, dims=1),
    "detach, clone, in place": lambda a, b: (a.detach() * b, a.clone().mul_(2).add_(b)),
    "an input, twice": lambda a, b: (a, b, a, b.t()),
}


@pytest.mark.parametrize("name", FORWARD)
def test_operations(name: str) -> None:
    assert_parity(FORWARD[name])


def gradients(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """The function that gives the gradients, with weights that differ, of both arguments."""

    def both(a: Tensor, b: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            a, b = (x.detach().requires_grad_() for x in (a, b))
            result = function(a, b)
            weights = (torch.arange(result.numel()) * 0.1 + 1).view(result.shape)
            return torch.autograd.grad((result * weights).sum() + a.sum() * 0 + b.sum() * 0, [a, b])

    return both


BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arithmetic": lambda a, b: a * b - a / (b.abs() + 1) + (2 - b),
    "broadcast": lambda a, b: a[:, :1] * b + a[:1] - 3 * b[:, 1:2],
    "powers": lambda a, b: a**2 * b**3,
    "abs, neg": lambda a, b: a.abs() * -b,
    "erf, sigmoid": lambda a, b: torch.erf(a) * torch.sigmoid(b),
    "exp, exp2, log2": lambda a, b: torch.exp(a * 0.3) * torch.exp2(b) + torch.log2(a.abs() + 1),
    "minimum, maximum": lambda a, b: torch.minimum(a, b + 0.01) * torch.maximum(a * 2, b),
    "clamp": lambda a, b: a.clamp(-0.51, 0.52) * b.clamp_min(0.1),
    "hardtanh": lambda a, b: F.hardtanh(a, -0.51, 0.52) * b,
    "where": lambda a, b: torch.where(a > b, a * 2, b * a),
    "product": lambda a, b: a @ b.t(),
    "product of transposed": lambda a, b: a.t() @ b,
    "addmm": lambda a, b: torch.addmm(a[:, :1], a, b.t()),
    "cat, split": lambda a, b: torch.cat([x[:1] * y for x, y in zip(a.split([1, 2, 3]), b.split(2), strict=True)]),
    "cat along columns": lambda a, b: torch.cat([a, b, a * b], 1),
    "slice": lambda a, b: a[1:4] * b[2:5] + a[:3, :] * b[3:],
    "stack, unbind": lambda a, b: torch.stack([a, b, a * b], 1).sum(1),
    "view, expand": lambda a, b: a.view(12, 4)[None].expand(2, 12, 4) * b.reshape(12, 4),
    "sum, mean": lambda a, b: a.sum(0, keepdim=True) * b.mean() + (a * b).sum(1)[:, None],
    "tensordot": lambda a, b: torch.tensordot(a.t(), b * 1.5, dims=1) ** 2,
    "detach": lambda a, b: a.detach() * b + a,
}


@pytest.mark.parametrize("name", BACKWARD)
def test_gradients_of_operations(name: str) -> None:
    assert_parity(gradients(BACKWARD[name]))


def test_clipped_ends_pass_gradients() -> None:
    """By intention unlike torch: a value at an end of its range may come back from there."""
    function = gradients(lambda a, b: F.hardtanh(a, -1.0, 1.0) * b)
    a = torch.tensor([[-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0]] * 6)
    b = torch.ones(SHAPE)
    model = to_onnx(function, {"a": a, "b": b}, ["da", "db"])  # type: ignore[arg-type]
    session = open_session(model.SerializeToString(), threads=1, device="cpu")
    found = np.asarray(session.run(["da"], {"a": a.numpy(), "b": b.numpy()})[0])
    by_torch = function(a, b)[0].numpy()  # type: ignore[index]
    ends = np.abs(a.numpy()) == 1
    np.testing.assert_allclose(found[~ends], by_torch[~ends], rtol=1e-6)
    assert (by_torch[ends] == 0).all()
    assert (found[ends] != 0).all()
    assert (found[np.abs(a.numpy()) > 1] == 0).all()


def test_equal_constants_are_shared() -> None:
    model = assert_parity(lambda a, b: (a * 3 + 3, b * 3 - 3, torch.where(a > 3, 3.0, b)))
    assert len(model.graph.initializer) == 1


def test_unused_inputs_stay_inputs() -> None:
    model = to_onnx(lambda a, b: [a * 2], dict(zip("ab", inputs(), strict=True)), ["out"])
    assert [value.name for value in model.graph.input] == ["a", "b"]


def test_arguments_have_the_traced_shapes() -> None:
    model = to_onnx(lambda a, b: [a * b], dict(zip("ab", inputs(), strict=True)), ["out"])
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert shapes == [list(SHAPE)] * 2


UNSUPPORTED: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "transpose": ("aten.transpose.int", lambda a, b: a.transpose(0, 1) * 2),
    "softmax": ("aten._softmax.default", lambda a, b: a.softmax(0)),
    "lerp": ("aten.lerp.Scalar", lambda a, b: a.lerp(b, 0.5)),
    "cumsum": ("aten.cumsum.default", lambda a, b: a.cumsum(0)),
    "conversion": ("aten._to_copy.default", lambda a, b: a.long() * b),
    "sort": ("aten.sort.default", lambda a, b: a.sort()[0]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_operations_are_refused_by_name(name: str) -> None:
    operation, function = UNSUPPORTED[name]
    with pytest.raises(GencodecError, match=f"the operation {operation} has no translation"):
        to_onnx(lambda a, b: [function(a, b)], dict(zip("ab", inputs(), strict=True)), ["out"])


VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add of a multiple": lambda a, b: torch.add(a, b, alpha=2),
    "sub of a multiple": lambda a, b: torch.sub(a, b, alpha=2),
    "rsub of a multiple": lambda a, b: torch.rsub(a, b, alpha=2),
    "rounded quotient": lambda a, b: torch.div(a, b.abs() + 1, rounding_mode="floor"),
    "range from 2 on": lambda a, b: a * torch.arange(2, 10),
    "addmm of multiples": lambda a, b: torch.addmm(a[:, :6], a, b.t(), beta=2, alpha=3),
    "mean of rows": lambda a, b: a.mean(1),
    "unequal parts": lambda a, b: a.split(4)[1],
    "ones alone": lambda a, b: torch.ones_like(a),
    "gradient of the last rows": lambda a, b: gradients(lambda x, y: x[-2:] * y[:2])(a, b)[0],
    "gradient of all but the last rows": lambda a, b: gradients(lambda x, y: x[1:-2] * y[:3])(a, b)[0],
    "gradient of every other row": lambda a, b: gradients(lambda x, y: x[::2] * y[:3])(a, b)[0],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_operations_are_right_or_refused_by_name(name: str) -> None:
    refusal = ""
    try:
        to_onnx(lambda a, b: [VARIANTS[name](a, b)], dict(zip("ab", inputs(), strict=True)), ["out"])
    except GencodecError as error:
        refusal = str(error)
    if refusal:
        assert "the operation aten." in refusal
    else:
        assert_parity(VARIANTS[name])
