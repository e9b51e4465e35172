"""Runs exported models with ONNX Runtime; needs no torch."""

from typing import TYPE_CHECKING

from gencodec.runtime.registry import ModelCard, find_model, list_models, model_for

if TYPE_CHECKING:
    from gencodec.runtime.model import Model, load

__all__ = ["Model", "ModelCard", "find_model", "list_models", "load", "model_for"]


def __getattr__(name: str) -> object:
    if name in ("Model", "load"):  # ONNX Runtime is imported only when a model is run
        from gencodec.runtime import model

        return getattr(model, name)
    raise AttributeError(name)
