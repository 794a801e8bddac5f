"""``python -m diffmedseg``."""

from diffmedseg.cli.main import main

if __name__ == "__main__":
    main()
