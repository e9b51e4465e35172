"""The `gencodec` command: thin commands over the codec and the runtime."""

from gencodec.cli.app import app, main

__all__ = ["app", "main"]
