"""Image compression by learned models, lossless bit for bit on any machine, or lossy.

>>> import gencodec
>>> data = gencodec.compress("photo.png")
>>> image = gencodec.decompress(data)
>>> gencodec.save(image, "photo.gnc")

Names are loaded when they are first used, so that the import itself is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gencodec.codec.api import FileInfo, compress, decompress, info, open, save, verify  # noqa: A004
    from gencodec.codec.image import Image, Metadata
    from gencodec.errors import (
        GencodecError,
        InexactGraph,
        InvalidFile,
        UnknownModel,
        UnsupportedImage,
        UsageError,
    )

__version__ = "0.1.0"

__all__ = [
    "FileInfo",
    "GencodecError",
    "Image",
    "InexactGraph",
    "InvalidFile",
    "Metadata",
    "UnknownModel",
    "UnsupportedImage",
    "UsageError",
    "__version__",
    "compress",
    "decompress",
    "info",
    "open",
    "save",
    "verify",
]

_HOMES = {
    "gencodec.codec.api": ("FileInfo", "compress", "decompress", "info", "open", "save", "verify"),
    "gencodec.errors": (
        "GencodecError",
        "InexactGraph",
        "InvalidFile",
        "UnknownModel",
        "UnsupportedImage",
        "UsageError",
    ),
    "gencodec.codec.image": ("Image", "Metadata"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
