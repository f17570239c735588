"""The local page of ``moceir app`` and the comparison page of ``moceir compare``."""
