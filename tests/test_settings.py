"""Sizes from the command line: what a config's types allow, so that every size of a paper can be asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest

pytest.importorskip("torch")

from gencodec.errors import UsageError
from gencodec.models.families import FAMILIES, Family, find_family
from gencodec.models.nvaeconfig import PAPER, NVAEConfig
from gencodec.models.settings import parsed, written


@dataclass(frozen=True)
class Config:
    """One field of every kind."""

    width: int = 8
    price: float = 2.0
    groups: tuple[int, ...] = (1, 2)
    pair: tuple[int, int] = (2, 3)
    errors: tuple[float, ...] = (400.0, 0.5)
    reach: tuple[tuple[int, int], ...] = ((-4, -1), (-3, 2))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("width=64", 64),
        ("width=0", 0),
        ("price=0.25", 0.25),
        ("price=3", 3.0),
        ("groups=30", (30,)),
        ("groups=2,1", (2, 1)),
        ("groups=(2, 1, 1)", (2, 1, 1)),
        ("groups=()", ()),
        ("pair=5,6", (5, 6)),
        ("errors=1,1e-3", (1.0, 0.001)),
        ("reach=(-1,1),(-2,2)", ((-1, 1), (-2, 2))),
        ("reach=(-1,1),", ((-1, 1),)),
    ],
)
def test_values_are_of_their_fields_types(setting: str, value: Any) -> None:
    found = parsed(Config, [setting], "it")
    assert found == {setting.split("=")[0]: value}
    assert [type(v) for v in found.values()] == [type(value)]


@pytest.mark.parametrize(
    "setting",
    [
        "width",
        "width=",
        "width=-1",
        "width=1.0",
        "width=True",
        "width=1,2",
        "width='1'",
        "width=1 +",
        "width=__import__('os')",
        "price=nan",
        "price=1e999",
        "price=-0.5",
        "groups=1,-1",
        "groups=1,0.5",
        "pair=1",
        "pair=1,2,3",
        "reach=1,2",
        "reach=" + "(" * 3000,
    ],
)
def test_other_values_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=r"is not NAME=VALUE: \w+ is a (whole number|number|list of numbers), by def"):
        parsed(Config, [setting], "it")


def test_unknown_sizes_are_named() -> None:
    with pytest.raises(UsageError, match=r"no size of it 'widht'; did you mean width\?"):
        parsed(Config, ["widht=3"], "it")


def test_what_is_written_is_read() -> None:
    sizes = asdict(Config())
    assert parsed(Config, [f"{name}={written(value)}" for name, value in sizes.items()], "it") == sizes


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_size_of_every_family_can_be_given(family: Family) -> None:
    sizes = asdict(family.config())
    assert family.configured([f"{name}={written(value)}" for name, value in sizes.items()]) == family.config()


def test_a_papers_size_is_reached() -> None:
    changed = {name: value for name, value in asdict(PAPER).items() if value != asdict(NVAEConfig())[name]}
    assert find_family("nvae").configured([f"{name}={written(value)}" for name, value in changed.items()]) == PAPER


def test_sizes_that_no_codec_takes_are_refused() -> None:
    """A row that follows the one above at once would look at sums that are not yet known."""
    with pytest.raises(UsageError, match="total_bits of a photo network is 16 or 20, not 17"):
        find_family("photo").configured(["total_bits=17"])
    for setting, least in (
        ("lag=1", 2),
        ("energies=0", 1),
        ("row_pool=0", 1),
        ("pool_rows=0", 1),
        ("pool_columns=0", 1),
    ):
        name, value = setting.split("=")
        with pytest.raises(UsageError, match=f"{name} of a photo network is at least {least}, not {value}"):
            find_family("photo").configured([setting])
