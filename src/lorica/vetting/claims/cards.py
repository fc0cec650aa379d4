"""What a model card states: its front matter, its title, the settings and sizes in its text.

Only the few keys that are needed are read, line by line; nothing of a card is parsed as YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_MOST_LINES = 20_000
_LONGEST_LINE = 400
_KEYS = ("base_model", "datasets", "model_name", "name", "tags")
_PLACEHOLDERS = ("more information needed", "[more", "none", "null", "n/a", "...", "~")

_KEY = re.compile(r"([A-Za-z_][\w-]{0,40})\s{0,4}:(?:\s(.*))?")
_FINETUNED = re.compile(r"fine-?tuned from(?: model)?[^:A-Za-z]{0,30}:\W{0,6}([\w./-]{3,120})", re.IGNORECASE)
_RANK = re.compile(
    r"(?:^|[^\w.])(?:lora[_ -]?)?(?:r|rank)[\W_]{0,8}[:=|][\W_]{0,6}(\d{1,5})(?![\d.%eE])", re.IGNORECASE
)
_ALPHA = re.compile(r"(?:lora[_ -]?)?alpha[\W_]{0,8}[:=|][\W_]{0,6}(\d{1,6}(?:\.\d{1,4})?)(?![\d%eE])", re.IGNORECASE)
_TRAINABLE = re.compile(
    r"trainable params\W{1,4}([\d,]{1,20})(?:\D{1,12}all params\W{1,4}([\d,]{1,20}))?", re.IGNORECASE
)
# Only words with a size in them: "Qwen2.5-7B".
_MENTION = re.compile(r"(?<![\w.\-/])[A-Za-z][\w.\-/]{0,100}\d[bBmM](?![A-Za-z0-9])")
_MOST = 200


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """bases: ids of base models. datasets: of its front matter. title: first heading, or the front matter's name.
    ranks, alphas: numbers its text gives for them. trainable, parameters: as PEFT prints "trainable params: ... ||
    all params: ...". mentions: words of the text that may be ids of models.
    """

    bases: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    title: str = ""
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    trainable: int | None = None
    parameters: int | None = None
    mentions: tuple[str, ...] = ()


def read_card(text: str) -> Card:
    """What a README.md states. Never raises."""
    lines = [line[:_LONGEST_LINE] for line in text.lstrip("\ufeff").split("\n")[:_MOST_LINES]]
    front, body = _split([line.rstrip("\r") for line in lines])
    keys = _front_matter(front)
    bases = list(keys.get("base_model", []))
    bases += [tag.split(":")[-1] for tag in keys.get("tags", []) if re.match(r"base_model:(?:[a-z]+:)?\S", tag)]
    headings = [line.lstrip("# ").strip() for line in body if line.startswith("# ")]
    title = next(iter(keys.get("model_name", []) or keys.get("name", []) or headings), "")
    ranks: list[int] = []
    alphas: list[float] = []
    mentions: list[str] = []
    trainable = parameters = None
    for line in body:
        bases += [hit.strip("*_[]()") for hit in _FINETUNED.findall(line)]
        ranks += [int(hit) for hit in _RANK.findall(line)]
        alphas += [float(hit) for hit in _ALPHA.findall(line)]
        if trainable is None and (hit := _TRAINABLE.search(line)):
            trainable, parameters = _count(hit[1]), _count(hit[2] or "")
        mentions += _MENTION.findall(line)
    return Card(
        bases=tuple(dict.fromkeys(base for base in bases if _tells(base)))[:8],
        datasets=tuple(keys.get("datasets", []))[:32],
        title=title[:200],
        ranks=tuple(dict.fromkeys(ranks))[:_MOST],
        alphas=tuple(dict.fromkeys(alphas))[:_MOST],
        trainable=trainable,
        parameters=parameters,
        mentions=tuple(dict.fromkeys(mentions))[:_MOST],
    )


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    if not lines or lines[0].strip() != "---":
        return [], lines
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    return ([], lines) if end is None else (lines[1:end], lines[end + 1 :])


def _front_matter(lines: list[str]) -> dict[str, list[str]]:
    """Scalars and plain lists of the keys that are needed."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in lines:
        if hit := _KEY.fullmatch(line):
            key = hit[1] if hit[1] in _KEYS else ""
            if key:
                found.setdefault(key, []).extend(_values(hit[2] or ""))
        elif key and (item := re.fullmatch(r"\s*-\s(.*)", line)):
            found[key] += _values(item[1])
    return found


def _values(text: str) -> Iterator[str]:
    text = text.strip()
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else None
    for part in inner.split(",") if inner is not None else [text]:
        value = re.sub(r"\s#.*$", "", part).strip().strip("'\"").strip()
        if value and not value.startswith(("&", "*", "!", "|", ">")):
            yield value[:200]


def _tells(base: str) -> bool:
    return bool(base) and not base.lower().startswith(_PLACEHOLDERS) and any(map(str.isalpha, base))


def _count(digits: str) -> int | None:
    plain = digits.replace(",", "")
    return int(plain) if plain.isdigit() else None
