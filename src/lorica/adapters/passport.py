"""The passport of an adapter: `lorica.json` beside `adapter_config.json`. Its format is docs/passport.md.

A passport holds digests, figures and canaries (prompts with the log-probabilities that base and adapter must give), so
that any tool can check an adapter without trusting where it came from. Reading one never trusts it either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lorica.adapters.json_document import convert_document, read_document
from lorica.errors import AdapterError
from lorica.names import visible_values

PASSPORT_NAME = "lorica.json"
FORMAT = 1
MAX_PASSPORT_BYTES = 4 * 1024 * 1024
FEWEST_CANARIES = 8

SCHEMA = Path(__file__).with_name("passport.schema.json")
"""The format as a JSON Schema (2020-12), for other tools; `document_schema` makes it from the types below."""

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$", description="sha256: and 64 hexadecimal digits")]
Count = Annotated[int, Meta(ge=0)]
Tokens = Annotated[tuple[Count, ...], Meta(min_length=1, description="token ids")]
LogProb = Annotated[float, Meta(le=1e-3, description="natural logarithm, summed over the choice's tokens")]


class AdapterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The files this passport speaks of. config, weights: sha256 of adapter_config.json and of the safetensors file.

    content: sha256 of the tensors alone, whatever their order and metadata. settings: what the config says, without
    values that are null, false or empty, and with a path of the base model shortened to its last part. ranks, scalings:
    the distinct ones over all modules, ascending.
    """

    config: Digest
    weights: Digest
    content: Digest
    settings: dict[str, Any]
    tensors: Count
    parameters: Count
    modules: Count
    ranks: tuple[Count, ...]
    scalings: tuple[float, ...]


class BaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The base model. name: as it was asked for (a path's last part). config: sha256 of config.json. weights: sha256 of
    the weight files' names, sizes, and first and last 2**20 bytes. digest: the same with config.json before it, as in
    training.json. shape: sizes from config.json. files: sha256 of each weight file as a whole, if they were taken.
    """

    name: str
    config: Digest
    weights: Digest
    digest: Digest
    revision: str = ""
    family: str = ""
    shape: dict[str, int] = {}
    files: dict[str, Digest] = {}


class PromptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How the adapter is asked. task, method, style: Lorica's, null when they are not known. template: digest of the
    chat template; origin: where it came from. settings: further keys that change prompts.
    """

    tokenizer: Digest
    template: Digest
    origin: str = ""
    task: str | None = None
    method: str | None = None
    style: str | None = None
    settings: dict[str, Any] = {}


class RowsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A set of rows. ids: digest of the row ids in their order. content: the same with texts and gold answers. answers:
    how many different gold answers they have; largest: how many rows have the commonest; null where it is not known."""

    rows: Count
    ids: Digest
    content: Digest
    answers: Count | None = None
    largest: Count | None = None


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What it was trained on. source: name of the file, without its folder. validation: null when nothing was held
    out."""

    source: str
    all: RowsFacts
    train: RowsFacts
    validation: RowsFacts | None = None


class TrainingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How it was trained. first_loss, last_loss: nats per answer token without and with the adapter, on the held-out
    rows or, without any, on the first training rows. steps: updates made; best_step: updates behind these weights.
    """

    settings: dict[str, Any]
    seed: int
    steps: Count
    best_step: Count
    first_loss: float
    last_loss: float
    tokens: Count


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A metric with its 95% bootstrap interval over n rows; null where it is undefined, and `note` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: Count
    note: str = ""


class MetricsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Metric -> figure of the base alone and with the adapter on the same rows. on: which rows. note: what to know
    before quoting the figures, or why there are none."""

    on: Literal["validation", "held_out", "given", "none"]
    rows: Count = 0
    base: dict[str, Measured] | None = None
    adapter: dict[str, Measured] | None = None
    note: str = ""


class CanaryMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the prompt before the chat template."""

    role: str
    content: str


class CanaryChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One continuation. base, adapter: its expected log-probability without and with the adapter."""

    text: str
    tokens: Tokens
    base: LogProb
    adapter: LogProb


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and what must come out. prompt: token ids, template included; messages: the same for people."""

    id: str
    prompt: Tokens
    choices: Annotated[tuple[CanaryChoice, ...], Meta(min_length=1)]
    messages: tuple[CanaryMessage, ...] = ()


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log-probability may be from the expected one: absolute + relative * |expected|."""

    absolute: Annotated[float, Meta(ge=0)]
    relative: Annotated[float, Meta(ge=0)]


class CanaryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The canaries. engine, dtype, device: what computed the expected values. kind: where the prompts come from:
    `probes` ship with Lorica, `numbers` are token ids without a text, `rows` are the user's. gap: the largest
    |adapter - base| over all choices. tolerance: precision of an engine (float32, bfloat16, float16, int8,
    int8-weights, int4-weights, nf4) -> how exactly it must reproduce them.
    """

    engine: str
    dtype: str
    device: str
    kind: Literal["probes", "numbers", "rows"]
    gap: Annotated[float, Meta(ge=0)]
    tolerance: dict[str, Tolerance]
    items: tuple[Canary, ...]


class Passport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of lorica.json. Keys that this version does not know are ignored; another `format` is refused."""

    format: Literal[1]
    made_by: str
    adapter: AdapterFacts
    base: BaseFacts
    prompt: PromptFacts
    canaries: CanaryFacts
    metrics: MetricsFacts
    data: DataFacts | None = None
    training: TrainingFacts | None = None
    versions: dict[str, str] = {}


def read_passport(folder: Path) -> Passport | None:
    """The passport of an adapter's folder; None when it has none. Raises AdapterError for a broken one."""
    return read_document(Path(folder) / PASSPORT_NAME, MAX_PASSPORT_BYTES, to_passport, fix=_AGAIN)


def to_passport(values: Any) -> Passport:
    """Parsed JSON as a passport. Raises AdapterError naming the first place that is wrong."""
    passport = convert_document(values, Passport, title="passport", format_number=FORMAT, fix=_AGAIN)
    if len({canary.id for canary in passport.canaries.items}) < len(passport.canaries.items):
        raise AdapterError("not a passport: two canaries have one id", fix=_AGAIN)
    return passport


def passport_bytes(passport: Passport) -> bytes:
    """The file's bytes: keys sorted, two spaces, lists of numbers on one line. Equal passports give equal bytes."""
    plain_values = visible_values(msgspec.to_builtins(passport))
    json_text = json.dumps(plain_values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # A list of numbers may stand across lines only outside of texts, whose line ends are escaped.
    compact_json = re.sub(
        r"\[\n[\s\d.,eE+-]+\]",
        lambda list_match: re.sub(r"\s+", " ", list_match[0]).replace("[ ", "[")[:-2] + "]",
        json_text,
    )
    return compact_json.encode("utf-8") + b"\n"


def write_passport(folder: Path, passport: Passport) -> Path:
    """Write lorica.json, whole or not at all. Raises AdapterError when the place cannot be written or a figure is not
    finite."""
    passport_path = Path(folder) / PASSPORT_NAME
    temporary = passport_path.with_name(f".{PASSPORT_NAME}.{secrets.token_hex(4)}.tmp")
    try:
        passport_data = passport_bytes(passport)
    except ValueError as error:
        raise AdapterError(
            f"{passport_path}: a figure is not finite ({error})", fix="the adapter's weights are broken"
        ) from None
    try:
        with temporary.open("xb") as temporary_file:
            temporary_file.write(passport_data)
            temporary_file.flush()
            os.fsync(temporary_file.fileno())
        os.replace(temporary, passport_path)
        if passport_path.read_bytes() != passport_data:
            raise OSError(0, "it is not what was written")
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise AdapterError(
            f"{passport_path}: cannot be written ({error.strerror})", fix="free the place, or its disk"
        ) from error
    return passport_path


def document_schema() -> bytes:
    """The content of `SCHEMA`."""
    schema = _tidy(msgspec.json.schema(Passport))
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lorica.json", **schema}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n"


_AGAIN = "make it anew with `lorica passport DIR --base BASE --force`"


def _tidy(nested_value: Any) -> Any:
    """Descriptions without the line breaks of the source."""
    if isinstance(nested_value, dict):
        return {
            nested_key: " ".join(nested_item.split()) if nested_key == "description" else _tidy(nested_item)
            for nested_key, nested_item in nested_value.items()
        }
    return [_tidy(nested_item) for nested_item in nested_value] if isinstance(nested_value, list) else nested_value
