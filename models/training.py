"""The training loop: a budget of time or steps, a cosine schedule, an averaged copy of the weights, checkpoints.

What step k computes depends on the weights, the seed and k alone, so that a training which was interrupted goes on
as if it had not been.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gencodec.errors import GencodecError
from gencodec.models.parallel import ALONE, Processes
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap

PATIENCE = 20
"""Steps without a finite loss or gradient, in a row, after which a training has failed."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    minutes: float = 40.0
    steps: int | None = None
    """The budget in steps, in place of minutes."""
    rate: float = 2e-3
    warmup: float = 0.01
    """Share of the budget in which the rate rises."""
    exact: bool = False
    """Train the integer network (quantization-aware) instead of the smooth one."""
    finish: float = 0.0
    """Share of the budget, at its end, in which the integer network is trained anyway."""
    half: bool | None = None
    """Multiply in bfloat16, by default where that is fast; the integer network does so with gradients alone."""
    average: float = 0.999
    every: float = 2.0
    """Minutes between checkpoints and evaluations."""

    def share(self, steps: int, seconds: float) -> float:
        """Share of the budget that so much has spent, at most 1."""
        spent, budget = (seconds, self.minutes * 60) if self.steps is None else (steps, self.steps)
        return min(1.0, spent / budget) if budget else 1.0

    def rate_at(self, share: float) -> float:
        """Learning rate after a share of the budget."""
        rise = min(1.0, share / self.warmup) if self.warmup else 1.0
        return self.rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))

    def exact_at(self, share: float) -> bool:
        """Whether the integer network is trained after a share of the budget."""
        return self.exact or (self.finish > 0 and share >= 1 - self.finish)


def multiplies_half(device: str) -> bool:
    """Whether a device multiplies bfloat16 faster than float32, rather than in software."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("amx_bf16", "avx512_bf16"))


def seed_of(*numbers: int) -> int:
    """A seed of 64 bits from numbers that are not negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class Trainer:
    """A model, its averaged copy and optimizer, and where they are kept between runs."""

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        checkpoint: Path,
        about: Mapping[str, Any] | None = None,
        *,
        seed: int = 1,
        processes: Processes = ALONE,
    ):
        """`about`: what else to keep in the checkpoint, such as the network's sizes."""
        self.about = dict(about or {})
        self.processes, self.device = processes, processes.device
        self.model = model.to(self.device)
        self.averaged = copy.deepcopy(self.model).eval()
        self.parallel: nn.Module | None = None
        self.schedule, self.checkpoint, self.seed = schedule, checkpoint, seed
        self.half = multiplies_half(self.device) if schedule.half is None else schedule.half
        self.optimizer = Soap(self.model.parameters(), lr=schedule.rate)
        self.steps, self.seconds = 0, 0.0
        self.averaged_from = 0
        """The step from which weights are averaged: anew where the integer network's training begins."""
        self.history: list[dict[str, float]] = []
        self.skipped, self.failures = 0, 0
        self.exact = schedule.exact_at(0.0)
        self.set_exact(self.exact)

    @property
    def share(self) -> float:
        """Share of the budget that is spent."""
        return self.schedule.share(self.steps, self.seconds)

    def set_exact(self, exact: bool) -> None:
        """Compute as the integer network does, or smoothly."""
        self.exact = exact
        for network in (self.model, self.averaged):
            set_exact(network, exact, half_gradients=self.half)
        if self.device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = not exact  # it would round the integers

    def run(
        self,
        batches: Iterator[Tensor],
        evaluate: Callable[[nn.Module], float],
        log: Callable[[str], Any],
        progress: Callable[[float], Any] | None = None,
    ) -> None:
        """Train until the budget is spent; `evaluate` gives held-out bits per symbol of the averaged weights.

        `log` takes a line for every evaluation, `progress` the share of the budget that is spent. When interrupted,
        it keeps the checkpoint and raises `KeyboardInterrupt`. Raises `GencodecError` when losses stay infinite.
        """
        last_report, recent = self.seconds, []
        with noted_interrupts() as interrupted:
            while self.share < 1:
                start = time.monotonic()
                recent.append(self.step(next(batches)))
                self.agree(self.seconds + time.monotonic() - start, bool(interrupted))
                if progress:
                    progress(self.share)
                if self.seconds - last_report > self.schedule.every * 60 or self.share >= 1:
                    last_report = self.seconds
                    if self.processes.leads:
                        self.report(recent, evaluate, log)
                    recent = []

    def agree(self, seconds: float, interrupted: bool) -> None:
        """Take the first process's time, so that all stop at one step.

        If any is to end, the checkpoint is kept. Raises `KeyboardInterrupt` then.
        """
        first = self.processes.leads
        self.seconds, ending = self.processes.total(seconds if first else 0.0, float(interrupted))
        if ending:
            if first:
                self.save()
            raise KeyboardInterrupt

    def step(self, batch: Tensor) -> float:
        """One update; returns the batch's mean bits per symbol. Raises `GencodecError` when losses stay infinite."""
        share = self.share
        if self.schedule.exact_at(share) != self.exact:
            self.set_exact(not self.exact)
            self.averaged_from = self.steps
        x = batch.to(self.device, torch.float32)
        if self.parallel is None:
            self.parallel = self.processes.wrapped(self.model, unused=self.leaves_unused(x))
        torch.manual_seed(seed_of(self.seed, self.processes.rank, self.steps))
        loss = self.loss(self.parallel, x)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        mean = self.processes.total(float(loss.detach()) / self.processes.count)[0]
        self.steps += 1
        if not (math.isfinite(mean) and bool(torch.isfinite(norm))):
            self.skip()
            return mean
        self.failures = 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate_at(share)
        self.optimizer.step()
        self.average()
        return mean

    def loss(self, network: nn.Module, x: Tensor) -> Tensor:
        """Mean bits per symbol of tiles (3, batch, height, width), with all gradients forgotten."""
        self.optimizer.zero_grad()
        half = self.half and not self.exact
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=half):
            return network(x).mean()

    def leaves_unused(self, x: Tensor) -> bool:
        """Whether some parameters get no gradient, which a parallel training must know.

        Layers that begin by what they see of the first batch do so now, before the processes' weights are made one.
        """
        if self.processes.count == 1:
            return False
        kept = copy.deepcopy(self.model.state_dict())
        self.loss(self.model, x).backward()
        if self.steps:
            self.model.load_state_dict(kept)
        return any(p.grad is None for p in self.model.parameters() if p.requires_grad)

    def skip(self) -> None:
        """Leave the weights as they are after a loss or gradient that is not finite. Raises `GencodecError`."""
        self.skipped, self.failures = self.skipped + 1, self.failures + 1
        if self.failures >= PATIENCE:
            raise GencodecError(
                f"the training has diverged: {PATIENCE} steps in a row had no finite loss; try a lower --rate"
            )

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the present ones; buffers are taken as they are."""
        count = self.steps - self.averaged_from
        decay = min(self.schedule.average, count / (count + 10))
        for mean, value in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for mean, value in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            mean.copy_(value)

    def report(self, losses: list[float], evaluate: Callable[[nn.Module], float], log: Callable[[str], Any]) -> None:
        """Evaluate the averaged weights, note where the training stands, and save it."""
        finite = [loss for loss in losses if math.isfinite(loss)]
        entry = {
            "minutes": self.seconds / 60,
            "steps": self.steps,
            "train": sum(finite) / len(finite) if finite else math.nan,
            "held_out": evaluate(self.averaged),
        }
        if self.skipped:
            entry["skipped"] = self.skipped
        self.history.append(entry)
        log(" ".join(f"{key} {value:.4f}" for key, value in entry.items()))
        self.save()

    def save(self) -> None:
        """Write the checkpoint, never half of it."""
        state = {
            **self.about,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "averaged_from": self.averaged_from,
            "exact": self.exact,
            "history": self.history,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds, self.history = state["steps"], state["seconds"], state["history"]
        self.averaged_from = state["averaged_from"]
        self.set_exact(state["exact"])

    def start_from(
        self, checkpoint: Path, weights_of: Callable[[dict[str, Any]], dict[str, Tensor]] = itemgetter("averaged")
    ) -> None:
        """Take the averaged weights of another training, or what `weights_of` makes of its state, to start from."""
        weights = weights_of(torch.load(checkpoint, map_location=self.device, weights_only=True))
        self.model.load_state_dict(weights)
        self.averaged.load_state_dict(weights)


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Requests to end are noted in the list, so that no step is left half done; a second one is obeyed."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: Any) -> None:
        if noted:
            signal.default_int_handler(number, frame)
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
