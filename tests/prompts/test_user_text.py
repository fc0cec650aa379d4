"""User text is data: whatever it holds, it never becomes a control token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from lorica.errors import PromptError
from lorica.prompts.encoder import Encoder
from lorica.records import Message

from .conftest import load_encoder, tiny_tokenizer, write_folder

MARKERS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "<",
    "|",
    "im_end|>",
    "<|im_",
    "\ue000",
    "\ue001",
]
text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)
hostile = st.lists(st.sampled_from(MARKERS) | text, max_size=12).map("".join)
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(system=hostile, user=hostile, answer=hostile)
def test_control_tokens_are_the_templates_own(tiny: Path, system: str, user: str, answer: str) -> None:
    encoder = load_encoder(tiny)
    chat = [Message("system", system), Message("user", user)]
    encoded = encoder.encode(chat, answer=answer or "x", max_tokens=100_000, truncate="error")
    counts = Counter(token for token in encoded.tokens if token < 3 or token >= 400)
    assert counts == {1: 3, 2: 3}
    raw = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    whole = raw.decode(list(encoded.tokens), skip_special_tokens=False)
    assert whole == encoder.render(chat) + (answer or "x") + "<|im_end|>"


@relaxed
@given(answer=text.filter(bool))
def test_plain_text_round_trips(tiny: Path, answer: str) -> None:
    encoder = load_encoder(tiny)
    assert encoder.decode(encoder.encode_choice(answer)) == answer


@pytest.mark.parametrize("name", ["qwen3", "mistral-7b-instruct-v0.2", "tinyllama-chat", "smollm2-360m-instruct"])
def test_every_control_token_of_a_real_model_is_only_text(name: str, real: Callable[[str], Path]) -> None:
    encoder = load_encoder(real(name))
    vocabulary = encoder._vocabulary
    control = {token.id: content for content, token in vocabulary._markers.items()}
    assert len(control) >= 3
    benign = encoder.encode([Message("user", "x")], max_tokens=999, truncate="error").tokens
    everything = " ".join(control.values()) + "".join(control.values())
    for spelt in [*control.values(), everything]:
        got = encoder.encode([Message("user", f"a{spelt}b")], max_tokens=9999, truncate="error").tokens
        assert [t for t in got if t in control] == [t for t in benign if t in control], spelt
        assert spelt in encoder._vocabulary._tokenizers["start"].decode(list(got), skip_special_tokens=False)
        assert control.keys().isdisjoint(encoder.encode_choice(f"a{spelt}"))


def test_a_marker_of_one_letter(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(AddedToken("☃", special=True), AddedToken("☃☃x", special=True))
    template = (
        "{% for m in messages %}{{ m.content if m.role == 'assistant' else '☃' + m.content | trim + '☃' }}{% endfor %}"
    )
    encoder = Encoder.load(write_folder(tmp_path / "m", tokenizer, template=template, eos_token="☃"))
    own = tokenizer.token_to_id("☃")
    for content in ("☃", "☃☃☃x☃", " ☃☃ ", "x"):
        tokens = encoder.encode([Message("user", content)], max_tokens=99, truncate="error").tokens
        assert tokens[0] == tokens[-1] == own
        assert {own, tokenizer.token_to_id("☃☃x")}.isdisjoint(tokens[1:-1])


def test_text_that_a_template_trims_is_trimmed_before_markers_are_found(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}<|im_start|>{{ m.content | trim }}<|im_end|>{% endfor %}")
    encoder = Encoder.load(tiny, chat_template=str(file))
    tokens = encoder.encode([Message("user", "  <|im_end|>x  ")], max_tokens=99, truncate="error").tokens
    assert encoder.decode(tokens[1:-1]) == "<|im_end|>x"


def test_a_row_with_every_private_use_character_is_refused(tiny: Path) -> None:
    encoder = Encoder.load(tiny)
    everything = "".join(map(chr, range(0xE000, 0xF900)))
    encoder.encode([Message("user", everything)], max_tokens=100_000, truncate="error")
    with pytest.raises(PromptError, match="every private-use character"):
        encoder.encode([Message("user", everything + "<|im_end|>")], max_tokens=100_000, truncate="error")


def test_nul_and_controls_are_text(tiny: Path) -> None:
    encoder = Encoder.load(tiny)
    assert encoder.decode(encoder.encode_choice("a\x00b\x1b\ufffe")) == "a\x00b\x1b\ufffe"
