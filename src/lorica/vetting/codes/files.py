"""L001-L099: is it safe to read, and is it what its name says?"""

from __future__ import annotations

from lorica.vetting.codes.base import Code

FILES: dict[str, Code] = {}
