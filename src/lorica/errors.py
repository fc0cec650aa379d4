"""Every error a user of Lorica can meet, as one tree.

    LoricaError                 exit code 1   anything below; catch this to catch them all
    ├── UsageError              exit code 2   a command line that cannot be understood
    ├── ConfigError             exit code 2   an unknown key, a value of the wrong type, an impossible combination
    ├── DataError               exit code 3   a file of rows that cannot be read, with its file, line and row id
    ├── RetrievalError          exit code 3   an index of a knowledge base that is missing, changed or made otherwise
    ├── PromptError             exit code 3   a chat template or a prompt that cannot be rendered or does not fit
    ├── ModelError              exit code 4   a base model that is missing, incomplete or of an unsupported kind
    ├── AdapterError            exit code 4   an adapter folder that is missing, broken or does not fit its base
    ├── EngineError             exit code 5   the engine could not answer
    ├── TrainingError           exit code 5   training cannot go on: non-finite loss, nothing to learn from
    ├── ResumeError             exit code 6   a run directory that belongs to another run
    └── MissingExtraError       exit code 7   an optional package is needed and not installed

Verdicts on adapters have exit codes of their own, 10 to 12 (`vetting.findings.EXIT_CODES`).
An error's text says what was got, what is allowed and, after "->", what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Exit code of `check`, `diagnose` and `passport --check` where no verdict could be reached.
UNCHECKED = 12


class LoricaError(Exception):
    """Base of all errors that are the user's to mend; shown without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.fix}" if self.fix else self.message


class UsageError(LoricaError):
    """A command line that cannot be understood."""

    exit_code = 2


class ConfigError(LoricaError):
    """An unknown key, a value of the wrong type, or values that contradict each other."""

    exit_code = 2


class DataError(LoricaError):
    """A file of rows that cannot be read. Names the file and, where known, the line (1-based) and the row id."""

    exit_code = 3

    def __init__(
        self, message: str, *, path: Path | str, line: int | None = None, row_id: str | None = None, fix: str = ""
    ) -> None:
        location = str(path) + (f":{line}" if line is not None else "")
        row = f" (row {row_id!r})" if row_id is not None else ""
        super().__init__(f"{location}{row}: {message}", fix=fix)
        self.path = Path(path)
        self.line = line
        self.row_id = row_id


class CellError(ValueError):
    """A value of a row that cannot be used; whoever knows file, line and row id makes a DataError of it."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class NoTableError(DataError):
    """A table that has no shape of the task. columns: the names in it, where nothing was mapped; else ()."""

    def __init__(self, message: str, *, path: Path | str, line: int, fix: str, columns: Sequence[str]) -> None:
        super().__init__(message, path=path, line=line, fix=fix)
        self.columns = tuple(columns)


class RowError(DataError):
    """One row that cannot be used and that casts no doubt on the others: `data.bad_rows=skip` leaves it out."""

    def __init__(
        self, message: str, *, path: Path | str, line: int | None = None, row_id: str | None = None, fix: str = ""
    ) -> None:
        setting = "data.bad_rows=skip leaves such rows out and counts them"
        super().__init__(message, path=path, line=line, row_id=row_id, fix=f"{fix}; {setting}" if fix else setting)
        self.reason = message
        self.remedy = fix

    def as_data_error(self) -> DataError:
        """The same error where no setting leaves rows out."""
        return DataError(self.reason, path=self.path, line=self.line, row_id=self.row_id, fix=self.remedy)


class RetrievalError(LoricaError):
    """An index of a knowledge base that is missing, was changed, or was made with another encoder or other settings."""

    exit_code = 3


class PromptError(LoricaError):
    """A chat template or a prompt that cannot be rendered, or does not fit its token budget."""

    exit_code = 3


class TooLongError(PromptError):
    """A prompt that does not fit. needed: the tokens it takes (with its answer, where one was given), at least.
    otherwise: what helps where no setting does."""

    def __init__(self, message: str, *, needed: int, limit_key: str, otherwise: str) -> None:
        super().__init__(message, fix=f"raise {limit_key}, or {otherwise}")
        self.needed = needed
        self.otherwise = otherwise


class ModelError(LoricaError):
    """A base model that is missing, incomplete or of an unsupported kind."""

    exit_code = 4


class ModelConfigError(ModelError):
    """A config.json from which no model can be built, whatever the engine, or whose keys contradict each other."""


class AdapterError(LoricaError):
    """An adapter folder that is missing, broken or does not fit its base model."""

    exit_code = 4


class EngineError(LoricaError):
    """The engine could not answer a request."""

    exit_code = 5


class TrainingError(LoricaError):
    """Training cannot go on: a non-finite loss, or nothing to learn from."""

    exit_code = 5


class NotFiniteError(TrainingError):
    """A loss or a gradient became NaN or infinite."""


class NoGainError(TrainingError):
    """`lorica adapt` expects no gain where one is required."""


class CollapsedError(TrainingError):
    """A classifier gives every row the same score."""


class BaseNotFiniteError(NotFiniteError):
    """The base model alone gives such a loss, without an adapter: no setting of the training helps."""


class ResumeError(LoricaError):
    """A run directory that belongs to a different run; the message names the differences."""

    exit_code = 6


class MissingExtraError(LoricaError):
    """An optional package is needed and not installed; the fix names the extra to install, or is given."""

    exit_code = 7

    def __init__(self, package: str, *, extra: str = "", needed_for: str, fix: str = "") -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            fix=fix or f"pip install 'lorica[{extra}]'",
        )
