"""The processes of one data-parallel training, as PyTorch's `torchrun` starts them: gloo on CPUs, NCCL on CUDA."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those of a training; one alone by default."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    """Where this process computes, as torch names it."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides, writes and reports."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The values' sums over all processes, as every process must ask for them."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(together)
        return together.tolist()

    def wrapped(self, model: nn.Module, *, unused: bool) -> nn.Module:
        """A network that computes as `model` does, of the first process's weights, and averages what gradients arise.

        `unused`: some parameters may take no part in the outcome.
        """
        if self.count == 1:
            return model
        return DistributedDataParallel(model, find_unused_parameters=unused)


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process among those of the environment (WORLD_SIZE, RANK, LOCAL_RANK); `device` is cpu or cuda."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, device)
    finally:
        distributed.destroy_process_group()
