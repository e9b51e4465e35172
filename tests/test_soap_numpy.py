"""SOAP in numpy: the trainer's optimizer, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gencodec.codec.soap import FIRST, REFRESHED, SECOND, Soap
from gencodec.models import soap as torch_soap

Array = NDArray[np.float32]


def in_torch(soap: Soap, shape: tuple[int, ...]) -> tuple[torch_soap.Soap, torch.nn.Parameter]:
    """The optimizer of `gencodec.models.soap` in the same state, and its parameter of zeros."""
    parameter = torch.nn.Parameter(torch.zeros(shape))
    optimizer = torch_soap.Soap([parameter], lr=1.0, betas=(FIRST, SECOND), every=REFRESHED)
    state = {"step": soap.steps, "mean": torch.zeros(shape), "square": torch.zeros(shape)}
    if soap.bases:
        state |= {"statistics": [torch.tensor(s) for s in soap.statistics]}
        state |= {"bases": [torch.tensor(b) for b in soap.bases]}
    optimizer.state[parameter] = state
    return optimizer, parameter


def correlated(shape: tuple[int, ...], seed: int) -> Array:
    """A gradient whose elements differ in size and depend on each other, as those of neighboring pixels do."""
    mixed = np.random.default_rng(0).normal(size=(len(shape), 20, 20))
    gradient = np.random.default_rng(seed).normal(size=shape)
    for axis, extent in enumerate(shape):
        gradient = np.moveaxis(np.tensordot(mixed[axis, :extent, :extent], gradient, (1, axis)), 0, axis)
    return gradient.astype(np.float32)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6), (1, 7), (7, 1), (12,), (1,)])
def test_soap_is_that_of_the_trainer(shape: tuple[int, ...]) -> None:
    """Step by step on the same gradients, through several refreshes of the eigenbases."""
    soap = Soap(correlated(shape, 100))
    optimizer, parameter = in_torch(soap, shape)
    for seed in range(3 * REFRESHED + 2):
        gradient = correlated(shape, seed)
        direction = soap.step(gradient)
        before = parameter.detach().clone()
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        expected = (before - parameter.detach()).numpy()
        assert direction.dtype == np.float32
        np.testing.assert_allclose(direction, expected, atol=5e-3)
    state = optimizer.state[parameter]
    np.testing.assert_allclose(soap.mean, state["mean"].numpy(), rtol=1e-4, atol=1e-4)
    assert soap.steps == state["step"]
    assert len(soap.bases) == (2 if len(shape) == 2 else 0)
    for ours, theirs in zip(soap.bases, state.get("bases", []), strict=True):
        np.testing.assert_allclose(np.abs((ours * theirs.numpy()).sum(0)), 1, atol=1e-3)


def test_soap_begins_in_the_first_gradients_eigenbases() -> None:
    gradient = correlated((7, 7), 1)
    soap = Soap(gradient)
    for basis, product in zip(soap.bases, (gradient @ gradient.T, gradient.T @ gradient), strict=True):
        theirs = torch_soap.eigenbasis(torch.from_numpy(product)).numpy()
        np.testing.assert_allclose(np.abs((basis * theirs).sum(0)), 1, atol=1e-2)
        turned = basis.T @ product @ basis
        assert (np.diff(np.diag(turned)) <= 1e-3 * turned.max()).all()
        np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-4 * float(turned.max()))


def test_soap_finds_a_minimum() -> None:
    aim, weights = correlated((6, 8), 1), np.zeros((6, 8), np.float32)
    sizes = np.square(correlated((6, 8), 2), dtype=np.float32) + np.float32(0.1)
    soap = Soap((weights - aim) * sizes)
    first = np.abs(weights - aim).mean()
    for step in range(400):
        weights -= 0.4 * (1 - step / 400) * soap.step((weights - aim) * sizes)
    assert np.abs(weights - aim).mean() < 0.02 * first
