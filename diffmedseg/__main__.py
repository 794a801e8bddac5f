"""``python -m diffmedseg``."""

from diffmedseg.cli import main

main()
