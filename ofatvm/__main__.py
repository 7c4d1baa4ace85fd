"""`python -m ofatvm`, which torchrun needs."""

from __future__ import annotations

import sys

from ofatvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
