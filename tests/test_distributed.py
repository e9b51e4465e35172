"""Data-parallel training: two processes of torchrun on this machine's loopback, which must stay one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gencodec.models.parallel import ALONE, Processes, joined

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = '''
import os
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace

import torch
from torch import nn

from gencodec.cli import app
from gencodec.models import training
from gencodec.models.families import FAMILIES, Family


@dataclass(frozen=True)
class Config:
    hidden: int = 4


class Toy(nn.Module):
    """Begins by what it sees of the first batch, as actnorm does; has noise, and a parameter without use."""

    def __init__(self, config):
        super().__init__()
        self.center, self.unused = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(3))
        self.layers = nn.Sequential(nn.Conv2d(3, config.hidden, 3), nn.ReLU(), nn.Conv2d(config.hidden, 3, 1))
        self.register_buffer("begun", torch.tensor(False))
        self.first = None

    def forward(self, x):
        if self.training and not self.begun:
            self.center.data.copy_(x.mean())
            self.begun.fill_(True)
        if self.training and self.first is None:
            self.first = x.clone()
        y = self.layers((x + torch.rand_like(x) - self.center).transpose(0, 1) / 64)
        return (y.transpose(0, 1) - x[:, :, 1:-1, 1:-1] / 64).square()


clock = count(step=1 + int(os.environ["RANK"]))  # a step takes the first process a second, the other one two
training.time = SimpleNamespace(monotonic=lambda: next(clock))
made = []
FAMILIES["toy"] = Family("toy", Config, lambda config: made.append(Toy(config)) or made[-1])
torch.set_num_threads(1)
try:
    app(["train", "toy", "--data", "set", "--batch", "4", *OPTIONS], standalone_mode=False)
except SystemExit as end:
    assert not end.code, end.code
(network,) = made
torch.save({"first": network.first, "state": network.state_dict()}, f"{os.environ['RANK']}.pt")
'''


def run_two(place: Path, *options: str) -> str:
    """Run the training in two processes; what both write on standard error."""
    rng = np.random.default_rng(0)
    (place / "set").mkdir()
    for name, count in (("train", 50), ("test", 5)):
        slopes = rng.integers(0, 128, (count, 1, 1, 3)) + 4 * np.arange(32)[:, None, None] * np.ones((32, 1), int)
        np.save(place / "set" / f"{name}_x.npy", slopes.astype(np.uint8))
    (place / "program.py").write_text(PROGRAM.replace("OPTIONS", repr(options)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "program.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """By time, so that the first decides when both stop; weights that differed once would differ at the end."""
    words = run_two(tmp_path, "--minutes", "2", "--rate", "0.02")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(first["first"], second["first"])  # each sees tiles of its own
    assert first["state"].keys() == second["state"].keys()
    assert [name for name, value in first["state"].items() if not torch.equal(value, second["state"][name])] == []
    assert torch.equal(first["state"]["unused"], torch.ones(3))
    saved = torch.load(tmp_path / "toy.pt", weights_only=True)
    assert all(torch.equal(saved["model"][name], value) for name, value in first["state"].items())
    assert saved["steps"] == 120  # the seconds of the first one's clock
    assert saved["history"][-1]["held_out"] < 0.5 < beginning(tmp_path)
    assert words.count("held_out") == 1  # one process speaks


def beginning(place: Path) -> float:
    """Mean loss of a network that gives zeros, over the held-out pictures."""
    pictures = np.load(place / "set" / "test_x.npy")[:, 1:-1, 1:-1].astype(float)
    return float(np.square(pictures / 64).mean())


def test_one_process_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as processes:
        assert processes == ALONE == Processes(0, 1, "cpu")
        assert processes.leads
        assert processes.total(1.5, 2.0) == [1.5, 2.0]
        layer = torch.nn.Linear(1, 1)
        assert processes.wrapped(layer, unused=False) is layer
    assert not Processes(1, 2).leads
