"""The command line."""

from diffmedseg.cli.main import main

__all__ = ["main"]
