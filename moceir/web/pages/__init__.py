"""The HTML, CSS and JavaScript of ``moceir compare`` and ``moceir app``."""

from importlib.resources import files


def read(name: str) -> str:
    """The text of a file in this folder."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
