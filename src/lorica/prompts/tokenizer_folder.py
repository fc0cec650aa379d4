"""Reading the tokenizer and the chat template of a model folder or a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.digest import bytes_digest
from lorica.encoder_families import encoder_family
from lorica.engine_table import SEGMENTS
from lorica.errors import ModelError, PromptError
from lorica.file_signatures import LFS_FIX, Content, recognise
from lorica.gguf.file_header import is_gguf
from lorica.gguf.metadata import read_config
from lorica.gguf.tokenizer import read_tokenizer
from lorica.prompts.segments import SegmentFormat
from lorica.prompts.template import ChatTemplate, find_template
from lorica.prompts.vocabulary import Vocabulary

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class EncoderComponents(msgspec.Struct, frozen=True):
    """Everything an encoder is made of."""

    vocabulary: Vocabulary
    template: ChatTemplate | SegmentFormat
    thinking: bool
    trailing: str  # spaces that end the template's prompts, and belong to the first token of the answer
    named_tokens: tuple[str, ...]  # the beginning and the end of text, as the tokenizer's config names them
    end_of_text: int
    more_stop_tokens: tuple[int, ...]
    template_digest: str
    tokenizer_digest: str


def read_components(
    folder: Path, *, chat_template: str, thinking: bool, model_config: Mapping[str, Any] | None = None
) -> EncoderComponents:
    """Read a folder in Hugging Face's layout, or a GGUF file.

    chat_template "auto" is `SEGMENTS` for an encoder, by its `model_config`. Raises PromptError when it has no
    tokenizer, a broken one, no end-of-text token, or a template that fails.
    """
    config, tokenizer, origin = _read_gguf(folder) if is_gguf(folder) else _read_folder(folder)
    named_tokens = _named_tokens(config, _read_json(folder / "special_tokens_map.json"))
    with _named_where_malformed(origin):
        tokenizer["added_tokens"] = _all_added_tokens(tokenizer, config, named_tokens)
        vocabulary = Vocabulary(tokenizer, origin)
    if model_config is None and not is_gguf(folder):
        model_config = _read_json(folder / "config.json")
    if chat_template == SEGMENTS or (chat_template == "auto" and _is_encoder(model_config)):
        return _segments(vocabulary, tokenizer, origin)
    stop_tokens = _generation_stops(folder, model_config)
    source = find_template(folder, chat_template, config)
    variables: dict[str, object] = {**named_tokens, "enable_thinking": thinking}
    if source.origin == "plain" and not _opens_with(vocabulary, named_tokens.get("bos_token")):
        variables.pop("bos_token", None)
    template = ChatTemplate(source, variables, is_token=lambda token_text: vocabulary.marker_id(token_text) is not None)
    position = template.position
    trailing = _trailing_spaces(position.tail + position.marker + position.closing, vocabulary)
    # What is added to a template's own prompts, and taken from them, changes them, as another template would.
    changed = [position.marker + ("" if thinking else position.closing), trailing]
    template_bytes = msgspec.json.encode([source.text, thinking, *(changed if any(changed) else [])])
    return EncoderComponents(
        vocabulary=vocabulary,
        template=template,
        thinking=thinking,
        trailing=trailing,
        named_tokens=tuple(
            named_tokens[token_role] for token_role in ("bos_token", "eos_token") if token_role in named_tokens
        ),
        end_of_text=_end_of_text(folder, vocabulary, named_tokens, stop_tokens),
        more_stop_tokens=stop_tokens,
        template_digest=bytes_digest(template_bytes),
        tokenizer_digest=_tokenizer_digest(tokenizer),
    )


def tokenizer_digest(folder: Path) -> str:
    """`EncoderComponents.tokenizer_digest` of a folder in Hugging Face's layout. Raises PromptError, OSError."""
    config, tokenizer, origin = _read_folder(folder)
    named_tokens = _named_tokens(config, _read_json(folder / "special_tokens_map.json"))
    with _named_where_malformed(origin):
        tokenizer["added_tokens"] = _all_added_tokens(tokenizer, config, named_tokens)
        return _tokenizer_digest(tokenizer)


@contextmanager
def _named_where_malformed(origin: str) -> Iterator[None]:
    """What a file's values are is seen where they are used: whatever that raises becomes a PromptError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, msgspec.MsgspecError) as error:
        raise PromptError(
            f"{origin}, or tokenizer_config.json beside it, is not as tokenizers are saved: {error!r}",
            fix="download the model's folder again",
        ) from error


def _is_encoder(model_config: Mapping[str, Any] | None) -> bool:
    return model_config is not None and encoder_family(model_config.get("model_type")) is not None


def _segments(vocabulary: Vocabulary, tokenizer: Mapping[str, Any], origin: str) -> EncoderComponents:
    template = SegmentFormat(vocabulary, origin)
    end_of_text = vocabulary.marker_id(template.separator)
    assert end_of_text is not None  # it is one of the tokenizer's markers
    return EncoderComponents(
        vocabulary=vocabulary,
        template=template,
        thinking=False,
        trailing="",
        named_tokens=(),
        end_of_text=end_of_text,
        more_stop_tokens=(),
        template_digest=bytes_digest(msgspec.json.encode([template.source.text])),
        tokenizer_digest=_tokenizer_digest(tokenizer),
    )


def _tokenizer_digest(tokenizer: Mapping[str, Any]) -> str:
    return bytes_digest(msgspec.json.encode(_encoding_parts(tokenizer), order="sorted"))


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """tokenizer_config.json, tokenizer.json, and where the latter was read."""
    if not folder.is_dir():
        raise PromptError(f"there is no model folder {folder}", fix="set model.path to a base model's folder")
    config = _read_json(folder / "tokenizer_config.json")
    return config, *_read_tokenizer(folder)


def _read_gguf(gguf_path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """As `_read_folder`."""
    try:
        tokenizer, config = read_tokenizer(gguf_path)
    except ModelError as error:
        raise PromptError(error.message, fix=error.fix) from None
    return config, tokenizer, str(gguf_path)


def _trailing_spaces(prompt: str, vocabulary: Vocabulary) -> str:
    """Tokenizers write a space and the word behind it as one token: a prompt that ends with the space has another."""
    if vocabulary.ends_with_marker(prompt):
        return ""
    return prompt[len(prompt.rstrip(" \t")) :]


def _end_of_text(
    folder: Path, vocabulary: Vocabulary, named_tokens: Mapping[str, str], stop_tokens: Sequence[int]
) -> int:
    end_token = named_tokens.get("eos_token")
    end_of_text = next(iter(stop_tokens), None) if end_token is None else vocabulary.token_id(end_token)
    if end_of_text is not None:
        return end_of_text
    problem = (
        "names no end-of-text token"
        if end_token is None
        else f"names {end_token!r}, no token of it, as its end of text"
    )
    raise PromptError(
        f"{folder} {problem}, so an answer could not end",
        fix="convert the model anew, or use its Hugging Face folder"
        if is_gguf(folder)
        else "add eos_token to tokenizer_config.json, one of the tokenizer's tokens",
    )


def _encoding_parts(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer without what no prompt of ours depends on, and merges in one of their two ways of writing:
    transformers leaves the padding and cutting of its last call in the file, and a post-processor that adds nothing."""
    processor = tokenizer.get("post_processor")
    encoding = {
        **tokenizer,
        "padding": None,
        "truncation": None,
        "post_processor": None if _adds_nothing(processor) else processor,
    }
    merges = tokenizer["model"].get("merges")
    if isinstance(merges, list):
        merge_pairs = [merge_rule.split(" ", 1) if isinstance(merge_rule, str) else merge_rule for merge_rule in merges]
        encoding["model"] = {**tokenizer["model"], "merges": merge_pairs}
    return encoding


def _adds_nothing(processor: object) -> bool:
    """Whether a post-processor leaves the ids as they are: it puts no token before or behind a text."""
    if not isinstance(processor, dict):
        return processor is None
    if processor.get("type") == "Sequence":
        inner_processors = processor.get("processors")
        return isinstance(inner_processors, list) and all(map(_adds_nothing, inner_processors))
    if processor.get("type") == "TemplateProcessing":
        single = processor.get("single")
        return isinstance(single, list) and all(
            isinstance(template_step, dict) and "Sequence" in template_step for template_step in single
        )
    return processor.get("type") == "ByteLevel"


def _read_json(file_path: Path) -> dict[str, Any]:
    if not file_path.is_file():
        return {}
    file_bytes = file_path.read_bytes()
    if recognise(file_bytes) is Content.LFS_POINTER:
        raise PromptError(f"{file_path} is {Content.LFS_POINTER}", fix=LFS_FIX)
    try:
        return msgspec.json.decode(file_bytes, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PromptError(f"{file_path} is not a JSON object: {error}", fix="download the folder again") from error


def _named_tokens(config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that templates call bos_token, eos_token ...; the config wins over the older map."""
    tokens = {}
    for token_role in _NAMED_TOKENS:
        token_value = config.get(token_role) or special_tokens_map.get(token_role)
        content = token_value.get("content") if isinstance(token_value, dict) else token_value
        if isinstance(content, str) and content:
            tokens[token_role] = content
    return tokens


def _read_tokenizer(folder: Path) -> tuple[dict[str, Any], str]:
    file_path = folder / "tokenizer.json"
    if file_path.is_file():
        tokenizer = _read_json(file_path)
        if not isinstance(tokenizer.get("model"), dict):
            raise PromptError(f"{file_path} has no tokenizer model", fix="download the model's folder again")
        return tokenizer, str(file_path)
    return _convert_tokenizer(folder), str(folder)


def _convert_tokenizer(folder: Path) -> dict[str, Any]:
    """The older formats (vocab.json + merges.txt, tokenizer.model), by way of transformers."""
    fix = "save a tokenizer.json there: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
    sources = ("vocab.json", "merges.txt", "tokenizer.model", "vocab.txt", "tokenizer_config.json")
    if not any((folder / file_name).is_file() for file_name in sources):
        raise PromptError(f"{folder} holds no tokenizer (no tokenizer.json)", fix=fix)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise PromptError(
            f"{folder} has no tokenizer.json, and transformers, which could convert it, is not installed",
            fix="pip install 'lorica[local]', or " + fix,
        ) from error
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return msgspec.json.decode(loaded.backend_tokenizer.to_str(), type=dict[str, Any])
    # transformers raises whatever its converters raise, ImportError of their own dependencies included.
    except Exception as error:
        raise PromptError(
            f"{folder} has no tokenizer.json, and its older files could not be converted: {error}", fix=fix
        ) from error


def _all_added_tokens(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], named_tokens: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The tokenizer's added tokens, with those that only tokenizer_config.json declares."""
    added_tokens = list(tokenizer.get("added_tokens") or [])
    contents = {token_entry["content"] for token_entry in added_tokens}
    decoder_tokens = dict(config.get("added_tokens_decoder") or {})
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        decoder_tokens |= {
            str(vocabulary[content]): {"content": content, "special": True}
            for content in named_tokens.values()
            if content in vocabulary
        }
    token_flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    for identifier, token_entry in sorted(decoder_tokens.items(), key=lambda decoder_item: int(decoder_item[0])):
        if token_entry["content"] not in contents:
            contents.add(token_entry["content"])
            chosen = {token_flag: bool(token_entry.get(token_flag)) for token_flag in token_flags}
            added_tokens.append({"id": int(identifier), "content": token_entry["content"], **chosen})
    return sorted(added_tokens, key=lambda token_entry: int(token_entry["id"]))


def _generation_stops(folder: Path, model_config: Mapping[str, Any] | None) -> tuple[int, ...]:
    """End tokens of generation_config.json, else of config.json. Raises PromptError for what is no token id, ModelError
    for a GGUF file that is no model."""
    if model_config is None and is_gguf(folder):
        model_config = read_config(folder)
    for file_name in ("generation_config.json", "config.json"):
        given_config = model_config if file_name == "config.json" else None
        stop_value = (_read_json(folder / file_name) if given_config is None else given_config).get("eos_token_id")
        if stop_value is None:
            continue
        token_ids = stop_value if isinstance(stop_value, list) else [stop_value]
        if any(type(token_id) is not int for token_id in token_ids):
            raise PromptError(
                f"{folder / file_name}: eos_token_id is {stop_value!r}, neither a token id nor a list of them",
                fix="write the ids as whole numbers, or download the file again",
            )
        return tuple(token_ids)
    return ()


def _opens_with(vocabulary: Vocabulary, content: str | None) -> bool:
    return content is not None and vocabulary.opening_tokens()[:1] == (vocabulary.marker_id(content),)
