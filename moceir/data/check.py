"""Whether all pictures can be used, before hours have gone into a run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from moceir.data.datasets import Pair
from moceir.data.samples import check_pair
from moceir.errors import PictureError
from moceir.pictures.images import rgb_pixels

NAMED = 5
"""Pictures that a message names at most."""


def check_pictures(pairs: Sequence[Pair], crop: int = 0) -> None:
    """Decode every picture once, in several threads, and keep none.

    Args:
        pairs: each picture once, however often it is among them.
        crop: side of the patches that are to be cut, pixels.

    Raises:
        PictureError: some cannot be read, are smaller than the crop, or differ in size from their
            clean ones. It counts them all and names the first few.
    """

    def problem(pair: Pair) -> str | None:
        try:
            check_pair(pair, [rgb_pixels(path) for path in pair if path is not None], crop)
        except PictureError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return None

    unique = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor() as threads:
        problems = [found for found in threads.map(problem, unique) if found is not None]
    if len(problems) == 1:
        raise PictureError(problems[0])
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise PictureError(
            f"{len(problems)} of {len(unique)} training images cannot be used: fix them or remove "
            f"them from the data: {'; '.join(problems[:NAMED])}{more}"
        )
