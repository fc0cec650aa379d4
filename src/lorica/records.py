"""The data types: what flows from one stage to the next.

    Row -> Route -> Message... -> Encoded -> Request (ScoreChoices | Generate) -> Output -> Answer

Every record carries its row's `id`; order never carries meaning. All records are immutable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant"]


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat. `content` is plain text: markers of a template inside it are never special.

    `trim` holds the character spans (start, stop) of `content` that truncation may cut: the user's long texts, never
    the instruction or the question. `context` is the position in `content` at which passages of a knowledge base go:
    behind what rows share, before the row's own texts.
    """

    role: Role
    content: str
    trim: tuple[tuple[int, int], ...] = ()
    context: int = 0


class Problem(msgspec.Struct, frozen=True):
    """Something wrong that stops only those whom it concerns, and what to do about it."""

    message: str
    fix: str


class Row(msgspec.Struct, frozen=True):
    """One row of a user's file, after it was read and checked.

    `case` is the task's own typed payload (a `msgspec.Struct` defined beside the task).
    `gold` is the expected answer where the file has one: 0/1 for `rules`, the index of the right option for `mcq`,
    the accepted answers for `saq` and `qa`.
    `group` ties rows together that a split must not separate (a question id, a functionality, a rule).
    `gold_problem` says why the file's answer is not in `gold`: to train on the row or to evaluate with it is an error.
    `notes` are what a person should know of how the row was read; equal ones are reported once.
    `document` names what the row was taken from, as a knowledge base has it; "" where that is not known.
    """

    id: str
    case: msgspec.Struct
    subject: str = ""
    gold: int | tuple[str, ...] | None = None
    group: str = ""
    line: int = 0  # 1-based line in the file it came from; 0 when it came from memory
    gold_problem: Problem | None = None
    notes: tuple[str, ...] = ()
    document: str = ""


BuildRow = Callable[[Mapping[str, Any], str, int], Row]


class RowSchema(msgspec.Struct, frozen=True):
    """One of the tables users have, and how it becomes a `Row`.

    `required` and `optional` are names that `build` expects; `id_column` is one of them, or "" to number the rows
    `row-1`, `row-2`, ... `build(values, id, line)` raises `ValueError` with a message for a value it cannot use;
    the reader adds file, line and row id. `aliases`: name -> other names that files use for it, the likeliest first.
    `of_table`, where the reading of a row depends on the whole table, takes a function that starts a pass over the
    values of all rows and returns the `build` for that table. `of_columns`, where the names themselves vary from table
    to table, makes the schema for the names of one, or None. `gold`: the name that holds the right answer, if one does.
    `fillers`: values of required names for a table that holds gold answers alone, "-" where there is none here.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    id_column: str
    build: BuildRow
    aliases: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    of_table: Callable[[Callable[[], Iterator[Mapping[str, Any]]]], BuildRow] | None = None

    of_columns: Callable[[Sequence[str]], RowSchema | None] | None = None
    gold: str = ""
    fillers: Mapping[str, Any] = MappingProxyType({})

    def columns_for(self, name: str) -> tuple[str, ...]:
        """The columns that are read as `name`, its own first."""
        return (name, *self.aliases.get(name, ()))


class Route(msgspec.Struct, frozen=True):
    """Which adapter answers a row: its name, or None for the base model; `why` says how it was chosen."""

    adapter: str | None
    why: Literal["task", "subject", "general", "base", "fixed"]
    fallback: bool = False  # the adapter the row asked for does not exist


class Encoded(msgspec.Struct, frozen=True):
    """Token ids of one prompt, or of a prompt and its answer.

    `answer_start` is the index of the first answer token (== len(tokens) for a prompt alone): the loss mask is
    `index >= answer_start`. `dropped` counts the tokens that truncation removed from the user's text.
    """

    tokens: tuple[int, ...]
    answer_start: int
    dropped: int = 0


class ScoreChoices(msgspec.Struct, frozen=True, tag=True):
    """Ask for the log-probability of each choice as the continuation of `prompt`.

    prompt: token ids. choices: token ids of each choice, one or more tokens each. adapter: None is the base model.
    """

    id: str
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    adapter: str | None = None


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are picked. temperature 0 (or do_sample False) is greedy. top_k 0 and top_p 1 switch the cut off."""

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Ask for a continuation of `prompt` (token ids), ended by any of `stop_tokens`, which the output leaves out.

    stop: stop strings. An `engines.base.StopStringEngine` ends the text as soon as it holds one of these, with
    the token that completes it; other engines generate on, and the caller cuts the text there.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling = Sampling()
    stop_tokens: tuple[int, ...] = ()
    adapter: str | None = None
    stop: tuple[str, ...] = ()


Request = ScoreChoices | Generate


class Output(msgspec.Struct, frozen=True):
    """What an engine returns for one request.

    For `ScoreChoices`: `logprobs[i]` is the summed natural-log probability of choice i's tokens given the prompt.
    For `Generate`: `tokens` is the continuation without the stop token, and `finish` says why it ended.
    `error` is set, and everything else empty, when this one request could not be answered.
    """

    id: str
    logprobs: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    finish: Literal["choice", "stop", "length", "error"] = "choice"
    error: str = ""


class RowTiming(msgspec.Struct, frozen=True):
    """What the engine computed for one row: a line of `timings.jsonl`.

    seconds: of every batch that computed something for the row, retries too, its share by computed tokens. adapter:
    "base" for the base model alone. prompt_tokens, generated_tokens: of all attempts. warmup: computed beforehand, and
    not counted. part: which of the processes computed it that an interrupted run took, from 1. text: `text_digest` of
    the row's own text; "" in files of former versions.
    """

    id: str
    subject: str
    adapter: str
    seconds: float
    prompt_tokens: int
    generated_tokens: int
    warmup: bool = False
    part: int = 1
    text: str = ""


class UsedPassage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A passage of a knowledge base that stood in a prompt. source: the document it is of. digest: "sha256:..." of its
    text. dropped_tokens: what truncation removed from it."""

    id: str
    source: str
    score: float
    digest: str
    dropped_tokens: int = 0


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a result file.

    `answer` is the text a person reads (a letter, a short answer, "Yes"/"No"); `score` is P(Yes) for `rules`.
    `scores` are the choices' normalised probabilities. `stage` says which parse stage produced the answer:
    `choice`, `whole`, `first_number`, `keyword`, `text`, `fallback` or `invalid`.
    `flags` are sorted words: `truncated`, `adapter_fallback`, `retried`, `cut_off` (the length limit ended the text),
    `open_thought` (it was thinking still when it ended), `parse_fallback`, `invalid`, `error`, `trained_on` (the
    adapter was trained on the row's own label), and where passages are looked up `no_retrieval` (not for this subject)
    and `retrieval_failed`. `problem` says in words why an answer is
    invalid, or a look-up failed. `choice_mass` is the probability, over the whole vocabulary, that the model's answer
    is one of the choices at all: what `scores` share out among them. `passages` are those in the prompt, the best
    first, None where none were looked up; `dropped_passages` were looked up and had no room. `calibration`
    is the method by which `score` and `scores` were calibrated; `raw_score` and `raw_scores` are what they were before.
    """

    id: str
    answer: str | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    adapter: str = ""  # "base" for the base model alone
    route: str = ""
    stage: str = ""
    retries: int = 0
    dropped_tokens: int = 0
    flags: tuple[str, ...] = ()
    raw: str | None = None  # the model's own words, where it generated text
    problem: str | None = None
    choice_mass: float | None = None
    calibration: str = ""
    raw_score: float | None = None
    raw_scores: dict[str, float] | None = None
    passages: tuple[UsedPassage, ...] | None = None
    dropped_passages: int = 0
