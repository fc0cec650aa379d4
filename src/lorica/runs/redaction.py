"""Secrets do not go into records: keys of endpoints, tokens and passwords, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"

# Names of options, keys and variables whose value is secret: the last word, or "key" after a word that makes it one.
_SECRET_NAME = re.compile(
    r"(?:^|[-_.])(?:(?:api|access|private|secret|auth|openai|llm)[-_]?keys?|secrets?|token|credentials?|pass|pat|jwt"
    r"|authorization|auth|auth[-_]header|bearer|cookie)$|(?:api-?key|password|passwd|passphrase|pwd)$",
    re.IGNORECASE,
)
# Short names that hold a secret as a word of a command line or a variable (`-k X`, `--key=X`, `KEY=X`); as that of a
# column, or as a part of a longer one, they do not.
SECRET_WORDS = frozenset({"k", "key", "keys", "p", "pw", "pin", "otp", "sig", "signature", "sas"})
# Forms of keys that services hand out.
_KEY_FORM = re.compile(r"\b(?:sk|pk|hf|ghp|gho|xoxb|xoxp|glpat|AKIA)[-_]?[A-Za-z0-9][A-Za-z0-9_\-]{14,}")
# The user of an address, also with @ in the password, or / behind a name; what names of secrets hold in its query.
_IN_URL = re.compile(
    r"(?<=://)(?:[^/\s]+|[^/\s:@\"']+:(?!\d{1,5}/)[^\s\"']*)(?=@)"
    r"|((?<=[?&;#])[\w-]*(?:key|token|secret|password|sig)=)[^&;\s#'\"]+",
    re.IGNORECASE,
)
# Headers, JSON and variables within a word.
_STATED = re.compile(
    r"((?-i:\b[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|PASS|PWD)=[\"']?)|\bbearer\s+(?=\S*\d)|(?:api[-_]?key|authorization|password|secret)[\"']?\s*[:=]\s*[\"']?(?:bearer\s+|basic\s+)?)"
    r"[A-Za-z0-9._~+/=-]{6,}",
    re.IGNORECASE,
)
_LEAST_CHARACTERS = 6  # of a secret that is looked for in other texts: a shorter one would hide common words


class Redactor:
    """Hides secrets in texts: what options, keys and variables of secret names hold, and what has the form of a key."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        """words: of a command line. environ: variables of the process."""
        secrets = {value for name, value in environ.items() if _is_secret_word(name)}
        for word, following in pairwise([*words, ""]):
            name, separator, value = word.partition("=")
            stated = value if separator else following if name.startswith("-") else ""
            if _is_secret_word(name):
                secrets.add(stated)
            elif is_secret(name.lstrip("-").removesuffix("-env")):  # the name of the variable that holds it
                secrets.add(environ.get(stated, ""))
        self._secrets = sorted((value for value in secrets if len(value) >= _LEAST_CHARACTERS), key=len, reverse=True)

    def text(self, plain_text: str) -> str:
        """A text with its secrets hidden."""
        for secret in self._secrets:
            plain_text = plain_text.replace(secret, HIDDEN)
        plain_text = _IN_URL.sub(lambda match: (match[1] or "") + HIDDEN, plain_text)
        plain_text = _STATED.sub(lambda match: match[1] + HIDDEN, plain_text)
        return _KEY_FORM.sub(HIDDEN, plain_text)

    def words(self, words: Sequence[str]) -> list[str]:
        """A command line's words, short secrets hidden, too."""
        hidden_words: list[str] = []
        for word in words:
            name, separator, value = word.partition("=")
            before = hidden_words[-1] if hidden_words else ""
            if value and _is_secret_word(name):
                hidden_words.append(f"{name}{separator}{HIDDEN}")
            elif before.startswith("-") and "=" not in before and _is_secret_word(before):
                hidden_words.append(HIDDEN)
            else:
                hidden_words.append(self.text(word))
        return hidden_words

    def values(self, plain_value: Any, name: str = "") -> Any:
        """Nested plain values, with what a secret name holds hidden, and secrets within other texts."""
        if isinstance(plain_value, Mapping):
            return {str(key): self.values(value, str(key)) for key, value in plain_value.items()}
        if isinstance(plain_value, list | tuple):
            return [self.values(value, name) for value in plain_value]
        if not isinstance(plain_value, str):
            return plain_value
        return HIDDEN if plain_value and is_secret(name) else self.text(plain_value)


def is_secret(name: str) -> bool:
    """Whether an option, key or variable of this name holds a secret: `OPENAI_API_KEY` does, `max_tokens` does not."""
    return _SECRET_NAME.search(unquote(name)) is not None


def _is_secret_word(name: str) -> bool:
    """Whether a word of a command line, or a variable, of this name holds a secret."""
    bare_name = name.lstrip("-")
    return bare_name.lower() in SECRET_WORDS or is_secret(bare_name)
