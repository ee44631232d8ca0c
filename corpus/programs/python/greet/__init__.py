"""Greets by name."""

from importlib import metadata

from .words import greeting

__all__ = ["greeting", "version"]


def version() -> str:
    """The version that is installed."""
    return metadata.version("greet")
