"""Errors of gencodec.

GencodecError                exit code 1
  InvalidFile                exit code 3: broken, truncated, or not what it claims to be
    UnknownModel             the file needs a model, or weights, that are not installed
  UnsupportedImage           exit code 1: a valid image that is refused
  TargetError                exit code 1: an output that cannot be written, or must not be
  UsageError                 exit code 2: wrong arguments
  InexactGraph               exit code 1: a network that cannot be proved exact

Messages are one clear sentence that does not name the file: the caller knows which file it gave.
"""

from __future__ import annotations

from collections.abc import Collection


class GencodecError(Exception):
    """Base of every error that gencodec raises on purpose.

    `exit_code` is the status with which the command line ends on such an error.
    """

    exit_code: int = 1


class InvalidFile(GencodecError):
    """The data is damaged, truncated, or of no format known here."""

    exit_code = 3


class UnknownModel(InvalidFile):
    """The file was coded by a model, or by weights, that this installation lacks."""


class UnsupportedImage(GencodecError):
    """The image is valid, but of a kind that is refused (lossy source, animation, CMYK)."""


class TargetError(GencodecError):
    """The output cannot be written, or what stands there must not be replaced."""


class UsageError(GencodecError):
    """An argument is wrong, or asks for what the chosen format cannot hold."""

    exit_code = 2


MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises of data that are not of the form expected; whoever reads them turns it into an error of ours."""


def unknown_name(kind: str, name: str, known: Collection[str]) -> UsageError:
    """The error for a name that is none of the `known` ones of its kind, with the one that was meant, if that shows."""
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"
    return UsageError(f"there is no {kind} {name!r}; {hint}")


class InexactGraph(GencodecError):
    """A network that cannot be proved to compute the same bits on every machine."""
