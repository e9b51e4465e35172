"""A loaded model: its sessions, constants and metadata, checked against its card and its proof."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gencodec.errors import MALFORMED, GencodecError, InvalidFile, UnknownModel, UsageError
from gencodec.runtime import onnxfile, proof
from gencodec.runtime.branches import Branches
from gencodec.runtime.registry import ModelCard, find_model
from gencodec.runtime.session import PROVIDERS, first_line, open_session, provider_of

Array = NDArray[np.float32]
EMPTY = {rank: np.zeros((0,) * rank, np.float32) for rank in (2, 4)}
"""What inputs are given that a graph does not use, by their number of axes."""
MOST_VALUES = 64
"""Inputs, or outputs, of a graph."""


class Model:
    """Weights that may run on several threads at once; made by `load`."""

    def __init__(self, card: ModelCard, data: bytes, *, threads: int | None, device: str, optimize: bool = True):
        provider_of(device)  # a device that is not there is refused at once
        self.card, self.device, self.optimize = card, device, optimize
        self.given_threads, self.threads = threads, threads or os.cpu_count() or 1
        self.adapted = hashlib.sha256(data).hexdigest() != card.sha256
        self.file = onnxfile.read(data)
        self.worst_sum = proof.check(self.file, adapted=self.adapted)
        self._sessions: dict[int | str, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The network's sizes and geometry, as its exporter wrote them."""
        try:
            return json.loads(self.file.metadata["gencodec.config"])
        except MALFORMED as error:
            raise InvalidFile(f"the model {self.card.name} does not say how it is built") from error

    @cached_property
    def serial(self) -> Model:
        """The same model with one thread an operation, for callers that run several operations at once."""
        return self.with_threads(1)

    def with_threads(self, threads: int) -> Model:
        """The same model with so many threads an operation."""
        if self.given_threads == threads:
            return self
        if self.adapted:
            return Model(self.card, self.file.data, threads=threads, device=self.device, optimize=self.optimize)
        return load(self.card, threads=threads, device=self.device, optimize=self.optimize)

    @cached_property
    def step(self) -> ort.InferenceSession | None:
        """The session of the training step that the exporter wrote beside the model, if it did."""
        file = self.card.file.with_suffix(".step.onnx")
        if not file.exists():
            return None
        # its batches run side by side, so that one thread is enough for each
        return open_session(file.read_bytes(), threads=1, device=self.device)

    def changed(self, values: Mapping[str, NDArray[np.generic]]) -> Model:
        """A model with other values for some of its constants, proved again. Raises `InexactGraph`."""
        data = self.file.replaced(values)
        return Model(self.card, data, threads=self.given_threads, device=self.device, optimize=self.optimize)

    @property
    def family(self) -> str:
        """Which codec the model belongs to."""
        return self.file.metadata.get("gencodec.family", "")

    @property
    def format(self) -> str:
        """Version of what the family's stages take and give."""
        return self.file.metadata.get("gencodec.format", "")

    def constant(self, name: str) -> NDArray[np.generic]:
        """A table that the model ships beside its graph. Raises `InvalidFile` if it has none of that name."""
        try:
            return self.file.constants[name]
        except KeyError as error:
            raise InvalidFile(f"the model {self.card.name} has no table {name}") from error

    def run(self, stage: int, inputs: dict[str, NDArray[Any]]) -> list[Array]:
        """All outputs of one of the model's graphs for `inputs`."""
        return self._run(self.session(stage), None, inputs)

    @cached_property
    def stages(self) -> dict[str, tuple[int, list[str], list[str], list[str]]]:
        """Number, inputs, others' inputs and outputs of every graph by its name (`gencodec.export.stages`).

        A session wants the inputs of all graphs, be they the graph's own or not.
        """
        try:
            table = json.loads(self.file.metadata["gencodec.stages"])
            if max(int(entry[values]) for entry in table for values in ("inputs", "outputs")) > MOST_VALUES:
                raise ValueError("too many inputs or outputs")
            names = [f"in{i}" for i in range(max(int(entry["inputs"]) for entry in table))]
            found = {}
            for number, entry in enumerate(table):
                own, outputs = int(entry["inputs"]), [f"out{i}" for i in range(int(entry["outputs"]))]
                found[entry["name"]] = (number, names[:own], names[own:], outputs)
            return found
        except MALFORMED as error:
            raise InvalidFile(f"the model {self.card.name} does not say which graphs it has") from error

    @cached_property
    def inexact(self) -> frozenset[str]:
        """Names of the graphs of floating point."""
        return frozenset(e["name"] for e in json.loads(self.file.metadata["gencodec.stages"]) if e.get("float"))

    def run_float(self, stage: str, *arrays: Array) -> list[Array]:
        """The outputs of the graph of floating point called `stage`. Raises `InvalidFile`.

        They differ in their last digits between machines: nothing that is entropy-coded may depend on them but by what
        the file says.
        """
        if stage not in self.stages or stage not in self.inexact:
            raise InvalidFile(f"the model {self.card.name} has no graph {stage} of floating point")
        return self._outputs(stage, *arrays)

    def call(self, stage: str, *arrays: Array) -> list[Array]:
        """The outputs of the exact graph called `stage`, float32 arrays of integers like its inputs.

        Raises `InvalidFile`.
        """
        if stage not in self.stages or stage in self.inexact:
            raise InvalidFile(f"the model {self.card.name} has no exact graph {stage}")
        return self._outputs(stage, *arrays)

    def _outputs(self, stage: str, *arrays: Array) -> list[Array]:
        number, inputs, others, outputs = self.stages[stage]
        given = dict(zip(inputs, arrays, strict=True))
        given.update(dict.fromkeys(others, EMPTY[arrays[0].ndim]))
        return self._run(self.session(number), outputs, given)

    def _run(
        self, session: ort.InferenceSession, outputs: list[str] | None, given: Mapping[str, NDArray[Any]]
    ) -> list[Array]:
        try:
            return session.run(outputs, given)  # type: ignore[return-value]
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise GencodecError(f"ONNX Runtime cannot run the model on {self.device}: {first_line(error)}") from error

    @cached_property
    def _branches(self) -> Branches:
        return Branches(self.file)

    def session(self, stage: int) -> ort.InferenceSession:
        """The session of one of the model's graphs, with no more of the file than that needs. Raises `InvalidFile`."""
        return self._session(stage, lambda branches: branches.model(stage))

    def run_composed(
        self, name: str, compose: Callable[[Branches], bytes], inputs: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """All outputs of the graph `name` that `compose` makes of the model's own, once. Raises `InvalidFile`."""
        return self._run(self._session(name, compose, long=True), None, inputs)

    def _session(
        self, name: int | str, make: Callable[[Branches], bytes], *, long: bool = False
    ) -> ort.InferenceSession:
        if name not in self._sessions:
            with self._lock:
                if name not in self._sessions:
                    self._sessions[name] = open_session(
                        make(self._branches),
                        threads=self.given_threads,
                        device=self.device,
                        optimize=self.optimize,
                        long=long,
                    )
        return self._sessions[name]


_warm: dict[tuple[Any, ...], Model] = {}
_lock = threading.Lock()


def load(
    model: ModelCard | str | Path, *, threads: int | None = None, device: str = "auto", optimize: bool = True
) -> Model:
    """The model, from this process's earlier loads if it can be.

    `threads`: at least 1, None for one a core; more than there are cores would only wait for each other, and are not
    started. Raises `UsageError` for unknown names, `InexactGraph` for graphs without a sound proof, `UnknownModel` for
    weights that are not those of the card.
    """
    card = model if isinstance(model, ModelCard) else find_model(model)
    if threads is not None:
        if threads < 1:
            raise UsageError(f"a model runs on 1 thread or more, not {threads}")
        threads = min(threads, os.cpu_count() or 1)
    device = "cpu" if provider_of(device) == PROVIDERS["cpu"] else device  # "auto" may be the same
    key = (card, threads, device, optimize)
    with _lock:
        if key not in _warm:
            try:
                data = card.file.read_bytes()
            except OSError as error:
                raise UnknownModel(f"the weights of {card.name} are missing: {error.strerror}") from error
            if hashlib.sha256(data).hexdigest() != card.sha256:
                raise UnknownModel(f"the weights of {card.name} are not the ones that its card names")
            _warm[key] = Model(card, data, threads=threads, device=device, optimize=optimize)
        return _warm[key]
