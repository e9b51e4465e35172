"""The training loop: a time budget, a cosine schedule, an averaged copy of the weights, checkpoints to resume from."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    minutes: float = 40.0
    rate: float = 2e-3
    warmup: float = 0.01
    """Share of the budget in which the rate rises."""
    exact: bool = False
    """Train the integer network (quantization-aware) instead of the smooth one."""
    half: bool = True
    """Multiply in bfloat16; the integer network always computes in float32."""
    average: float = 0.999
    every: float = 2.0
    """Minutes between checkpoints and evaluations."""

    def rate_at(self, progress: float) -> float:
        """Learning rate after the share `progress` of the budget."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Trainer:
    """A model, its averaged copy and optimizer, and where they are kept between runs."""

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        checkpoint: Path,
        device: str = "cpu",
        about: Mapping[str, Any] | None = None,
    ):
        """`about`: what else to keep in the checkpoint, such as the network's sizes."""
        self.about = dict(about or {})
        self.model = model.to(device)
        self.averaged = copy.deepcopy(self.model).eval()
        self.schedule, self.checkpoint, self.device = schedule, checkpoint, device
        self.optimizer = Soap(self.model.parameters(), lr=schedule.rate)
        self.steps, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        for network in (self.model, self.averaged):
            set_exact(network, schedule.exact)

    def run(
        self,
        batches: Iterator[Tensor],
        evaluate: Callable[[nn.Module], float],
        log: Callable[[str], Any],
        progress: Callable[[float], Any] | None = None,
    ) -> None:
        """Train until the budget is spent; `evaluate` gives held-out bits per symbol of the averaged weights.

        `log` takes a line for every evaluation, `progress` the share of the budget that is spent.
        """
        budget = self.schedule.minutes * 60
        last_report, recent = self.seconds, []
        while self.seconds < budget:
            start = time.monotonic()
            recent.append(self.step(next(batches)))
            self.seconds += time.monotonic() - start
            if progress:
                progress(min(1.0, self.seconds / budget))
            if self.seconds - last_report > self.schedule.every * 60 or self.seconds >= budget:
                last_report = self.seconds
                self.report(sum(recent) / len(recent), evaluate(self.averaged), log)
                recent = []

    def step(self, batch: Tensor) -> float:
        """One update; returns the batch's mean bits per symbol."""
        x = batch.to(self.device, torch.float32)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate_at(self.seconds / (self.schedule.minutes * 60))
        half = self.schedule.half and not self.schedule.exact
        with torch.autocast(self.device, torch.bfloat16, enabled=half):
            loss = self.model(x).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(self.schedule.average, self.steps / (self.steps + 10))
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return float(loss.detach())

    def report(self, trained: float, held_out: float, log: Callable[[str], Any]) -> None:
        """Note where the training stands, and save it."""
        entry = {"minutes": self.seconds / 60, "steps": self.steps, "train": trained, "held_out": held_out}
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

    def start_from(self, checkpoint: Path) -> None:
        """Take the averaged weights of another training as the starting point."""
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["averaged"])
        self.averaged.load_state_dict(state["averaged"])
