"""Errors caused by user input. Each message names what is wrong and the remedy.

Messages speak of functions and their arguments. Commands add the option that sets the argument.
"""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Sequence
from typing import Any


class MoceirError(Exception):
    """Base of the errors below.

    Args:
        message: what is wrong with what, and what to do.
        argument: name of the function's argument whose value would have to change, if there is one.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


def is_expected(error: Exception) -> bool:
    """Whether its message tells a user what to mend: bad input, a refusal by the system, or an
    operator that cannot run by the backend that was asked for or has no kernel for this GPU."""
    # Backends load torch, which takes a second: their errors come from where that has happened.
    failures = sys.modules.get("moce_kernels.failures")
    if failures is not None and isinstance(error, failures.BackendUnavailableError):
        return True
    return isinstance(error, (MoceirError, OSError, ValueError))


class ConfigError(MoceirError, ValueError):
    """A configuration with an unknown name or a value out of range."""


class PictureError(MoceirError, ValueError):
    """An image, or a folder of images, that cannot be used."""


class TooLittleMemory(PictureError):
    """A picture that does not fit into memory.

    Args:
        need: what is missing for what, without the remedy.
        remedy: for who restores pictures. Callers that take no tiles have another.
    """

    def __init__(self, need: str, remedy: str, argument: str) -> None:
        super().__init__(f"{need}: {remedy}", argument)
        self.need = need


class WeightsError(MoceirError, ValueError):
    """Weights that cannot be used."""

    @classmethod
    def of_tensors(cls, problems: Sequence[str], remedy: str) -> WeightsError:
        """An error that lists the first few of the problems with individual tensors."""
        shown = "; ".join(problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        return cls(f"{len(problems)} tensors do not fit the network: {shown}{more} ({remedy})")


class CheckpointError(MoceirError, RuntimeError):
    """A training checkpoint that could not be written, read or resumed."""


class NonFiniteLoss(MoceirError, RuntimeError):
    """The loss or its gradient became NaN or infinite; the last checkpoint is from before."""


def check_several(name: str, values: object) -> None:
    """For arguments that take several texts or paths: of a single one, its letters would be taken.

    Raises:
        ConfigError: it is a single one.
    """
    if isinstance(values, (str, os.PathLike)):
        raise ConfigError(f"{name} {short(os.fspath(values))}: give a list, even for one")


def first_line(error: BaseException) -> str:
    """What an error of a library says, without what follows: advice to its own users, traces."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def short(value: Any) -> str:
    """As ``repr``, cut where it is long: it goes into messages, and may come from a file."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60
