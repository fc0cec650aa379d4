"""Types of values that several sections of the schema share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Share = Annotated[float, Meta(ge=0, lt=1)]  # a part of a whole, never all of it
Probability = Annotated[float, Meta(ge=0, le=1)]
Values = Annotated[str, Meta(extra={"values": True})]  # a list in a file or from Python is its text: [8,16]
LocalPath = Annotated[str, Meta(extra={"path": True})]  # `~` in it is expanded, by `config.paths`
