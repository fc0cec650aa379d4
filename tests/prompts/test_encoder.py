"""Encoding on a tiny ChatML model: structure, answers, stop tokens, folders that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from lorica.errors import ConfigError, PromptError
from lorica.prompts.encoder import Encoder
from lorica.records import Message

from .conftest import tiny_tokenizer, write_folder

CHAT = [Message("system", "You judge."), Message("user", "The post sells watches.")]


def ids(folder: Path, text: str) -> list[int]:
    """The oracle: the tokenizer itself on a text with its control tokens."""
    return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


def test_a_prompt_is_the_template_tokenised(tiny: Path) -> None:
    encoder = Encoder.load(tiny)
    text = (
        "<|im_start|>system\nYou judge.<|im_end|>\n<|im_start|>user\nThe post sells watches.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert encoder.render(CHAT) == text
    encoded = encoder.encode(CHAT, max_tokens=99, truncate="error")
    assert list(encoded.tokens) == ids(tiny, text)
    assert encoded.answer_start == len(encoded.tokens)


def test_an_answer_ends_with_the_end_of_turn(tiny: Path) -> None:
    encoder = Encoder.load(tiny)
    prompt = encoder.encode(CHAT, max_tokens=99, truncate="error")
    whole = encoder.encode(CHAT, answer="Yes", max_tokens=99, truncate="error")
    assert whole.tokens == prompt.tokens + encoder.encode_choice("Yes") + (2,)
    assert whole.answer_start == len(prompt.tokens)
    assert encoder.stop_tokens == (2,)
    assert encoder.decode(whole.tokens[whole.answer_start :]) == "Yes"


def test_decoding_leaves_special_tokens_out_and_tags_in(tiny: Path) -> None:
    encoder = Encoder.load(tiny)
    tag = ids(tiny, "<tool_call>")
    assert len(tag) == 1
    assert encoder.decode([1, *encoder.encode_choice("Yes"), *tag, 2, 0, 99_999]) == "Yes<tool_call>"


def test_stop_tokens_come_from_template_tokenizer_and_generation_config(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", tiny_tokenizer(), eos_token="<|endoftext|>")
    assert Encoder.load(folder).stop_tokens == (2, 0)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    assert Encoder.load(folder).stop_tokens == (2, 0, 5)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert Encoder.load(folder).stop_tokens == (2, 0, 7)


@pytest.mark.parametrize("value", ["2", 2.0, True, [2, None], {}])
def test_stop_tokens_that_are_no_ids_are_refused(value: object, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", tiny_tokenizer(), eos_token="<|endoftext|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(PromptError, match=r"generation_config\.json: eos_token_id is .*, neither a token id"):
        Encoder.load(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": null}')
    assert Encoder.load(folder).stop_tokens == (2, 0)


def test_the_end_of_text_may_be_named_by_config_json_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", tiny_tokenizer(), template=None)
    with pytest.raises(PromptError, match="names no end-of-text token"):
        Encoder.load(folder)
    (folder / "config.json").write_text('{"eos_token_id": 0}')
    assert Encoder.load(folder).stop_tokens == (0,)


def test_the_plain_format(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", tiny_tokenizer(), template=None, eos_token="<|endoftext|>")
    encoder = Encoder.load(folder)
    assert encoder.template_origin == "plain"
    assert encoder.render(CHAT) == "You judge.\n\nThe post sells watches.\n\nAnswer:"
    whole = encoder.encode(CHAT, answer="Yes", max_tokens=99, truncate="error")
    assert list(whole.tokens) == [*ids(folder, "You judge.\n\nThe post sells watches.\n\nAnswer: Yes"), 0]


def test_the_plain_format_opens_with_one_bos_if_the_tokenizer_does(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    names = {"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>"}
    plain = Encoder.load(write_folder(tmp_path / "a", tokenizer, template=None, **names))
    assert plain.encode(CHAT, max_tokens=99, truncate="error").tokens.count(1) == 1
    assert plain.encode(CHAT, max_tokens=99, truncate="error").tokens[0] == 1
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}"
    real = Encoder.load(write_folder(tmp_path / "b", tokenizer, template=template, **names))
    assert real.encode(CHAT, max_tokens=99, truncate="error").tokens.count(1) == 1
    bare = Encoder.load(write_folder(tmp_path / "c", tiny_tokenizer(), template=None, **names))
    assert 1 not in bare.encode(CHAT, max_tokens=99, truncate="error").tokens


def test_templates_by_path_by_config_and_by_force(tiny: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(
        "{% for m in messages %}{{ m.content if m.role == 'assistant' else '[' + m.content | trim + ']' }}"
        "{% if m.role == 'user' %}>{% endif %}{% endfor %}"
    )
    assert Encoder.load(tiny, chat_template=str(own)).render(CHAT) == "[You judge.][The post sells watches.]>"
    assert Encoder.load(tiny, chat_template="plain").template_origin == "plain"
    declared = [{"name": "tools", "template": "x"}, {"name": "default", "template": own.read_text()}]
    folder = write_folder(
        tmp_path / "m", tiny_tokenizer(), template=None, eos_token="<|im_end|>", chat_template=declared
    )
    assert Encoder.load(folder).render(CHAT).endswith("]>")
    digests = {Encoder.load(tiny, chat_template=choice).template_digest for choice in ("auto", "plain", str(own))}
    assert len(digests) == 3
    plain_text = own.read_text()
    own.write_text(plain_text, "utf-8-sig")  # as editors save it
    assert Encoder.load(tiny, chat_template=str(own)).render(CHAT) == "[You judge.][The post sells watches.]>"


def test_digests_follow_content_not_formatting(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    file = copy / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=7))
    first, second = Encoder.load(tiny), Encoder.load(copy)
    assert (first.tokenizer_digest, first.template_digest) == (second.tokenizer_digest, second.template_digest)
    assert first.tokenizer_digest.startswith("sha256:")
    changed = json.loads(file.read_text())
    changed["model"]["merges"].pop()
    file.write_text(json.dumps(changed))
    assert Encoder.load(copy).tokenizer_digest != first.tokenizer_digest


def test_the_tokenizer_digest_is_of_what_encodes(tiny: Path, tmp_path: Path) -> None:
    """As transformers saves a tokenizer after a padded call: other bytes, the same tokens for every text."""
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    file = copy / "tokenizer.json"
    original = json.loads(file.read_text())
    assert original["padding"] is None
    whole = [{"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": whole, "pair": whole, "special_tokens": {}}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    model = {**original["model"], "merges": [" ".join(each) for each in original["model"]["merges"]]}
    cut = {"direction": "Right", "max_length": 48, "strategy": "LongestFirst", "stride": 0}
    pad: dict[str, object] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
    }
    pad["pad_token"] = "<|endoftext|>"
    for changes in (
        {"padding": pad, "truncation": cut},
        {"post_processor": template},
        {"post_processor": {"type": "Sequence", "processors": [bytes_, template]}},
        {"model": model},
    ):
        file.write_text(json.dumps({**original, **changes}))
        assert Encoder.load(copy).tokenizer_digest == Encoder.load(tiny).tokenizer_digest, changes
    opening = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, *whole]
    tokens = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    for changes in (
        {"post_processor": {**template, "single": opening, "special_tokens": tokens}},
        {"pre_tokenizer": {**original["pre_tokenizer"], "add_prefix_space": True}},
        {"normalizer": {"type": "Lowercase"}},
    ):
        file.write_text(json.dumps({**original, **changes}))
        assert Encoder.load(copy).tokenizer_digest != Encoder.load(tiny).tokenizer_digest, changes


def test_a_template_without_system_role_gets_it_folded(tmp_path: Path) -> None:
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    dropping = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    for name, template in (("refusing", refusing), ("dropping", dropping)):
        encoder = Encoder.load(
            write_folder(tmp_path / name, tiny_tokenizer(), template=template, eos_token="<|im_end|>")
        )
        assert encoder.folds_system
        # Neither knows a generation prompt: the mark of the answer's turn is added.
        assert encoder.render(CHAT) == "<|im_start|>You judge.\n\nThe post sells watches.<|im_end|><|im_start|>"
        assert encoder.render(CHAT[:1]) == "<|im_start|>You judge.<|im_end|><|im_start|>"


def test_markers_that_swallow_white_space(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(
        AddedToken("<|end|>", special=True, rstrip=True, normalized=False),
        AddedToken("<|user|>", special=True, lstrip=True, normalized=False),
    )
    template = "{% for m in messages %}  <|user|>\n{{ m.content }} <|end|>\n{% endfor %}"
    folder = write_folder(tmp_path / "m", tokenizer, template=template, eos_token="<|end|>")
    encoder = Encoder.load(folder)
    got = encoder.encode(CHAT, max_tokens=99, truncate="error").tokens
    assert list(got) == ids(folder, encoder.render(CHAT))


def test_added_words_and_spaces_stay_ordinary_vocabulary(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(AddedToken("    "), AddedToken("Watchmaker"))
    folder = write_folder(tmp_path / "m", tokenizer, eos_token="<|im_end|>")
    encoder = Encoder.load(folder)
    for text in ("a    b", "a Watchmaker b"):
        got = encoder.encode([Message("user", text)], max_tokens=99, truncate="error").tokens
        assert list(got) == ids(folder, encoder.render([Message("user", text)]))
        assert {tokenizer.token_to_id("    "), tokenizer.token_to_id("Watchmaker")} & set(got)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "not valid Jinja"),
        ("{{ raise_exception('never') }}", "refused .*never"),
        ("nothing of the user", "does not show the user's message"),
        ("{{ messages[0].content.__class__.__mro__ }}", "refused"),
        ("{{ messages.append(1) }}{{ messages[0].content }}", "refused"),
        ("{% for i in range(10000000) %}{% endfor %}{{ messages[0].content }}", "refused"),
    ],
)
def test_templates_that_cannot_be_used(template: str, message: str, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text(template)
    with pytest.raises(PromptError, match=message) as caught:
        Encoder.load(tiny, chat_template=str(file))
    assert caught.value.fix


def test_the_template_language_is_that_of_transformers(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text(
        "{%- for m in messages %}{% if loop.index == 9 %}{% break %}{% endif %}\n"
        "  {% generation %}{{ m.content }}{% endgeneration %}{% if m.role == 'user' %}"
        "|{{ {'a': '<ü>'} | tojson }}|{{ strftime_now('%Y') }}|{{ undefined_name }}{% endif %}\n{%- endfor %}"
    )
    encoder = Encoder.load(tiny, chat_template=str(file))
    assert encoder.render([Message("user", "x")]) == 'x|{"a": "<ü>"}|2024|'


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "version https://git-lfs.github.com/spec/v1\noid sha256:0"])
def test_broken_tokenizer_files(content: str, tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).write_text(content)
        with pytest.raises(PromptError, match=f"{name} is (not a JSON object|a Git LFS pointer)"):
            Encoder.load(copy)
        shutil.copyfile(tiny / name, copy / name)
    for shape in ("{}", '{"model": {"type": "Magic"}}'):
        (copy / "tokenizer.json").write_text(shape)
        with pytest.raises(PromptError, match=r"tokenizer\.json"):
            Encoder.load(copy)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("tokenizer.json", {"added_tokens": [{"id": 1}]}),
        ("tokenizer.json", {"added_tokens": ["<s>"]}),
        ("tokenizer.json", {"added_tokens": [{"id": "one", "content": "<s>"}]}),
        ("tokenizer.json", {"added_tokens": [{"id": 1, "content": ["<s>"]}]}),
        ("tokenizer.json", {"added_tokens": 7}),
        ("tokenizer.json", {"normalizer": "NFC"}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 1}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"one": {"content": "<s>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["<s>"]}),
    ],
)
def test_values_that_no_tokenizer_has(name: str, broken: dict[str, object], tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | broken))
    with pytest.raises(PromptError, match=r"tokenizer(_config)?\.json") as caught:
        Encoder.load(copy)
    assert caught.value.fix


def test_missing_things(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no model folder"):
        Encoder.load(tmp_path / "nowhere")
    with pytest.raises(PromptError, match="holds no tokenizer"):
        Encoder.load(tmp_path)
    with pytest.raises(PromptError, match=r"(?s)cannot read the chat template .*'auto', 'plain' or the path"):
        Encoder.load(tiny, chat_template="automatic")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Nonsense"}')
    with pytest.raises(PromptError, match=r"(?s)has no tokenizer\.json.*save_pretrained"):
        Encoder.load(tmp_path)


def test_bad_calls(tiny: Path) -> None:
    encoder = Encoder.load(tiny)
    with pytest.raises(ConfigError, match=r"(?s)truncate='both'.*middle, left, right, error"):
        encoder.encode(CHAT, max_tokens=99, truncate="both")
    with pytest.raises(PromptError, match="has no tokens"):
        encoder.encode_choice("")
    for broken in (lambda: encoder.encode([Message("user", "a\ud800")], max_tokens=9, truncate="left"),
                   lambda: encoder.encode_choice("\udfff")):  # fmt: skip
        with pytest.raises(PromptError, match="lone surrogate"):
            broken()


def test_a_vocabulary_that_spells_its_control_tokens(tmp_path: Path) -> None:
    letters = [(letter, -3.0) for letter in "<s>/abc XY\n"]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *letters], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    template = "<s>{% for m in messages %}{{ m.content }}\n{% endfor %}"
    folder = write_folder(tmp_path / "m", tokenizer, template=template, eos_token="</s>")
    tokens = Encoder.load(folder).encode([Message("user", "a<s>b</s>")], max_tokens=99, truncate="error").tokens
    assert (tokens[0], tokens.count(1), tokens.count(2)) == (1, 1, 0)
