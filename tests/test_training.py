"""Training: it learns, goes on where it stopped as if it never had, and says so when it cannot."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencodec.errors import GencodecError
from gencodec.models import data
from gencodec.models.data import Draw, Tiles, held_out_tiles
from gencodec.models.photo import Photo, PhotoConfig
from gencodec.models.quantize import ExactLinear
from gencodec.models.training import PATIENCE, Schedule, Trainer, multiplies_half, noted_interrupts, seed_of
from tests.photographs import PHOTOS

Pixels = NDArray[np.uint8]
SIZES = PhotoConfig(hidden=8, layers=2, inner=6, color_hidden=8, bank=2, energies=3, drifts=2)
AT_FULL_RATE = Schedule(minutes=1e6, rate=1e-2, warmup=0.0, half=False, average=0.9)


@pytest.fixture
def tile_batches(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A few batches of training tiles."""
    monkeypatch.setattr(data, "POOL", 8)
    return list(islice(Tiles(PHOTOS[1:], Draw(batch=4, size=32, seed=3)), 60))


def fresh(checkpoint: Path, schedule: Schedule = AT_FULL_RATE) -> Trainer:
    torch.manual_seed(1)
    return Trainer(Photo(SIZES), schedule, checkpoint)


def held_out_bits(model: nn.Module) -> float:
    tiles = held_out_tiles(PHOTOS[:1]).float()
    with torch.no_grad():
        return float(model(tiles).mean())


def states(trainer: Trainer) -> dict[str, Tensor]:
    """All that a training consists of, by name."""
    found = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    found |= {f"averaged.{k}": v for k, v in trainer.averaged.state_dict().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            for i, part in enumerate(value if isinstance(value, list) else [value]):
                found[f"optimizer.{number}.{name}.{i}"] = torch.as_tensor(part)
    return found


def assert_same(a: Trainer, b: Trainer) -> None:
    first, second = states(a), states(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# learning


@pytest.mark.parametrize(
    "schedule", [AT_FULL_RATE, replace(AT_FULL_RATE, exact=True), replace(AT_FULL_RATE, half=True)]
)
def test_training_lowers_the_held_out_bits(schedule: Schedule, tile_batches: list[Tensor], tmp_path: Path) -> None:
    trainer = fresh(tmp_path / "new.pt", schedule)
    before = held_out_bits(trainer.averaged)
    for batch in tile_batches:
        trainer.step(batch)
    after = held_out_bits(trainer.averaged)
    assert after < before - 0.3
    # and the integer network, which is what codes, is about as good
    for layer in trainer.averaged.modules():
        if hasattr(layer, "exact"):
            layer.exact = True  # type: ignore[assignment]
    assert held_out_bits(trainer.averaged) < after * 1.1


def test_exact_schedules_train_exact_layers(tmp_path: Path) -> None:
    for exact in (True, False):
        trainer = fresh(tmp_path / "new.pt", replace(AT_FULL_RATE, exact=exact))
        for network in (trainer.model, trainer.averaged):
            layers = [m for m in network.modules() if isinstance(m, ExactLinear)]
            assert layers
            assert all(layer.exact == exact for layer in layers)


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(rate=1.0, warmup=0.1)
    rates = [schedule.rate_at(progress) for progress in (0, 0.05, 0.1, 0.5, 1, 2)]
    assert rates[0] == 0
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] == rates[5] == pytest.approx(0.01)


def test_budgets_are_of_time_or_of_steps() -> None:
    by_time, by_steps = Schedule(minutes=2), Schedule(minutes=2, steps=50)
    assert [by_time.share(steps, 30.0) for steps in (0, 99)] == [0.25, 0.25]
    assert [by_steps.share(10, seconds) for seconds in (0.0, 1e9)] == [0.2, 0.2]
    assert by_time.share(0, 500.0) == by_steps.share(70, 0.0) == Schedule(minutes=0).share(0, 0.0) == 1.0


def test_the_end_of_a_training_is_exact(tile_batches: list[Tensor], tmp_path: Path) -> None:
    schedule = replace(AT_FULL_RATE, steps=4, finish=0.5)
    trainer = fresh(tmp_path / "new.pt", schedule)
    seen = []
    for batch in tile_batches[:4]:
        trainer.step(batch)
        seen.append([layer.exact for layer in trainer.model.modules() if isinstance(layer, ExactLinear)])
    assert [set(exact) for exact in seen] == [{False}, {False}, {True}, {True}]
    assert all(layer.exact for layer in trainer.averaged.modules() if isinstance(layer, ExactLinear))
    assert not any(Schedule().exact_at(share) for share in (0.0, 1.0))


def test_bfloat16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    automatic = replace(AT_FULL_RATE, half=None)
    for able in ({"amx_bf16": True}, {"avx512_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert multiplies_half("cpu")
        assert fresh(tmp_path / "new.pt", automatic).half
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert not multiplies_half("cpu")
    assert not fresh(tmp_path / "new.pt", automatic).half
    assert fresh(tmp_path / "new.pt", replace(AT_FULL_RATE, half=True)).half


# networks of other kinds


class Toy(nn.Module):
    """A network with all that a training must take care of: a buffer, noise, a parameter without use, bad batches."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 1, 3, 3), 0.1))
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls.add_(1)
        y = nn.functional.conv2d((x + torch.rand_like(x)).flatten(0, 1)[:, None] / 255, self.weight)
        spoiled = torch.where(x.amax() > 255, math.nan, 1.0)
        return (y - 0.5).square() * spoiled


def toy(checkpoint: Path, seed: int = 1, steps: int = 1000) -> Trainer:
    torch.manual_seed(1)
    return Trainer(Toy(), replace(AT_FULL_RATE, steps=steps), checkpoint, {"family": "toy"}, seed=seed)


def flat(level: float = 100.0) -> Tensor:
    return torch.full((3, 2, 8, 8), level)


def test_buffers_and_unused_parameters_are_kept_in_the_average(tmp_path: Path) -> None:
    trainer = toy(tmp_path / "toy.pt")
    for _ in range(5):
        trainer.step(flat())
    assert int(trainer.averaged.get_buffer("calls")) == int(trainer.model.get_buffer("calls")) == 5
    assert torch.equal(trainer.averaged.get_parameter("unused"), torch.ones(3))
    assert not torch.equal(trainer.averaged.get_parameter("weight"), torch.full((2, 1, 3, 3), 0.1))
    trainer.save()
    again = toy(tmp_path / "toy.pt")
    again.resume()
    assert_same(again, trainer)


def test_steps_draw_their_own_noise(tmp_path: Path) -> None:
    """Whatever was drawn before, step k draws what the seed and k say."""
    losses = []
    for disturbed in (False, True):
        trainer = toy(tmp_path / "toy.pt")
        found = []
        for _ in range(4):
            if disturbed:
                torch.rand(7)
            found.append(trainer.step(flat()))
        losses.append(found)
    assert losses[0] == losses[1]
    other = toy(tmp_path / "toy.pt", seed=2)
    assert [other.step(flat()) for _ in range(4)] != losses[0]
    assert len({seed_of(*numbers) for numbers in [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0), (0, 0, 1)]}) == 5


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    trainer = toy(tmp_path / "toy.pt")
    trainer.step(flat())
    trainer.step(flat())
    before = {name: value.clone() for name, value in states(trainer).items() if "calls" not in name}
    assert math.isnan(trainer.step(flat(1000.0)))
    after = states(trainer)
    assert [name for name, value in before.items() if not torch.equal(after[name], value)] == []
    assert (trainer.steps, trainer.skipped) == (3, 1)
    lines: list[str] = []
    trainer.report([2.0, math.nan, 4.0], lambda _: 1.0, lines.append)
    assert trainer.history[-1]["train"] == 3.0
    assert "skipped 1" in lines[0]


def test_a_training_that_diverges_ends_in_one_sentence(tmp_path: Path) -> None:
    trainer = toy(tmp_path / "toy.pt")
    for _ in range(2):  # a step that succeeds begins the count again
        for _ in range(PATIENCE - 1):
            trainer.step(flat(1000.0))
        trainer.step(flat())
    for _ in range(PATIENCE - 1):
        trainer.step(flat(1000.0))
    with pytest.raises(GencodecError, match="has diverged: 20 steps in a row"):
        trainer.step(flat(1000.0))
    assert trainer.skipped == 3 * PATIENCE - 2


# checkpoints


def test_a_resumed_training_goes_on_as_if_never_interrupted(tile_batches: list[Tensor], tmp_path: Path) -> None:
    whole, first = fresh(tmp_path / "whole.pt"), fresh(tmp_path / "part.pt")
    for batch in tile_batches[:12]:
        whole.step(batch)
        first.step(batch)
    first.seconds = 17.5
    first.history.append({"steps": 12})
    first.save()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.pt"]
    second = Trainer(Photo(SIZES), AT_FULL_RATE, tmp_path / "part.pt")
    second.resume()
    assert_same(second, first)
    assert (second.steps, second.seconds, second.history) == (12, 17.5, [{"steps": 12}])
    for batch in tile_batches[12:24]:
        whole.step(batch)
        second.step(batch)
    assert_same(second, whole)


def test_a_run_spends_its_budget_reports_and_saves(tile_batches: list[Tensor], tmp_path: Path) -> None:
    trainer = fresh(tmp_path / "folder" / "run.pt", replace(AT_FULL_RATE, minutes=1e-3, every=1e-6))
    lines: list[str] = []
    trainer.run(_forever(tile_batches), lambda model: 4.25, lines.append)
    assert trainer.seconds >= 0.06
    assert len(lines) == len(trainer.history) >= 1
    assert trainer.history[-1]["held_out"] == 4.25
    assert trainer.history[-1]["steps"] == trainer.steps
    assert "held_out 4.25" in lines[-1]
    saved = torch.load(trainer.checkpoint, weights_only=True)
    assert saved["steps"] == trainer.steps


def _forever(tensors: list[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from tensors


def test_another_training_can_start_from_the_averaged_weights(tile_batches: list[Tensor], tmp_path: Path) -> None:
    first = fresh(tmp_path / "first.pt")
    for batch in tile_batches[:5]:
        first.step(batch)
    first.save()
    second = Trainer(Photo(SIZES), AT_FULL_RATE, tmp_path / "second.pt")
    second.start_from(tmp_path / "first.pt")
    assert second.steps == 0
    for name, value in first.averaged.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
        assert torch.equal(second.averaged.state_dict()[name], value)
    assert any(not torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


# interruptions


def test_an_interrupted_run_ends_between_steps_and_is_saved(tmp_path: Path) -> None:
    trainer = toy(tmp_path / "toy.pt")
    step = trainer.step

    def interrupted_step(batch: Tensor) -> float:
        if trainer.steps == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch)

    trainer.step = interrupted_step  # type: ignore[method-assign]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(_forever([flat()]), lambda _: 1.0, lambda _: None)
    assert trainer.steps == torch.load(trainer.checkpoint, weights_only=True)["steps"] == 4
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_interrupt_is_obeyed_at_once() -> None:
    with noted_interrupts() as noted:
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("stop", [1, 7])
def test_an_interrupted_training_by_steps_gives_the_weights_of_an_unbroken_one(stop: int, tmp_path: Path) -> None:
    def run(trainer: Trainer, until: int) -> None:
        def halt(_: float) -> None:
            if trainer.steps == until:
                raise KeyboardInterrupt

        source = iter(Tiles(PHOTOS[1:], Draw(batch=2, size=16, seed=3, first=trainer.steps)))
        trainer.run(source, lambda _: float(torch.rand(1)), lambda _: None, halt)

    whole, first, second = (toy(tmp_path / name, steps=10) for name in ("whole.pt", "part.pt", "part.pt"))
    run(whole, 0)
    with pytest.raises(KeyboardInterrupt):
        run(first, stop)
    first.save()
    second.resume()
    assert second.steps == stop
    run(second, 0)
    assert_same(second, whole)
    assert second.steps == 10
