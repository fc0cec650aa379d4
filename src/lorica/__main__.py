"""`python -m lorica` is `lorica`."""

from __future__ import annotations

import sys

from lorica.cli import main

if __name__ == "__main__":
    sys.exit(main())
