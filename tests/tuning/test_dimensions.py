"""What a study varies: lists, ranges, presets and `scale`, and what is refused."""

from __future__ import annotations

import pytest

from lorica.config.compose import compose
from lorica.errors import ConfigError
from lorica.tuning.dimensions import (
    SCALE,
    Dimension,
    choices,
    combinations,
    decode,
    encode,
    number_range,
    overrides_of,
    parse_dimension,
    settings_name,
)


def test_lists_hold_the_values_that_the_key_takes() -> None:
    assert parse_dimension("lora.r", "[32, 8,16,8]").values == (8, 16, 32)
    assert parse_dimension("task.style", "[structured,plain]").values == ("structured", "plain")
    assert parse_dimension("training.bf16", "[true,false]").values == (True, False)
    assert parse_dimension("lora.target_modules", "[[q_proj,v_proj],all-linear]").values == (
        ["q_proj", "v_proj"],
        "all-linear",
    )
    assert parse_dimension("lora", "[qv,all_linear]").values == ("qv", "all_linear")
    assert parse_dimension(SCALE, "[0.5,2]").values == (0.5, 2)


def test_ranges_are_logarithmic_where_their_ends_are_far_apart() -> None:
    assert parse_dimension("training.learning_rate", "1e-5..1e-3") == Dimension(
        "training.learning_rate", low=1e-5, high=1e-3, logarithmic=True
    )
    assert parse_dimension("training.epochs", "1 .. 6") == Dimension("training.epochs", low=1, high=6, integers=True)
    assert not parse_dimension("lora.dropout", "0..0.3").logarithmic


def test_numbers_of_a_range_are_short_and_stay_within_it() -> None:
    rates = number_range("training.learning_rate", 1.23456e-5, 1e-3)
    assert rates.rounded(4.56789e-4) == 4.57e-4
    assert rates.rounded(1.23456e-5) == 1.23456e-5, "rounding does not leave the range"
    assert number_range("training.epochs", 1, 6).rounded(2.6) == 3


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("lora.rr", "[8,16]", "did you mean lora.r"),
        ("scle", "[1,2]", "did you mean scale"),
        ("lora.r", "[8,zero]", "takes a whole number"),
        ("lora.r", "[]", "takes a list of values"),
        ("lora.r", "8,16", "takes a list of values"),
        ("lora.r", "16..8", "the first is the smaller"),
        ("task.style", "plain..structured", "takes a list of values"),
        ("task.style", "[plain,poetic]", "task.style"),
        ("training", "[tiny,huge]", "unknown preset training=huge"),
        ("training.val_ratio", "[0.1,0.2]", "all trials of a study share it"),
        ("training.seed", "[1,2]", "all trials of a study share it"),
        ("task", "[rules,mcq]", "all trials of a study share it"),
        ("tune.trials", "[1,2]", "all trials of a study share it"),
        ("data.algebra", "[a.csv,b.csv]", "all trials of a study share it"),
        ("scale", "[0,1]", "numbers above 0"),
    ],
)
def test_what_cannot_be_varied(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_dimension(key, text)
    assert message in str(refused.value)


def test_a_list_from_python_is_the_same() -> None:
    typed = compose(["tune.space.lora.r=[8,16]", "trials=7"], environ={}).config.tune
    assert typed.space == {"lora.r": "[8,16]"}
    assert typed.trials == 7
    settings = {"tune.space": {"lora.r": [8, 16], "task.style": ["plain"]}, "trials": 7}
    from_python = compose(settings, environ={}).config.tune
    assert from_python.space == {"lora.r": "[8,16]", "task.style": "[plain]"}
    with pytest.raises(ConfigError, match="takes"):
        compose({"tune.space": {"lora.r": None}}, environ={})


def test_scale_is_alpha_over_the_rank_of_the_trial() -> None:
    assert overrides_of({SCALE: 2, "lora.r": 8}, rank=16) == {"lora.r": 8, "lora.alpha": 16}
    assert overrides_of({SCALE: 0.5}, rank=16) == {"lora.alpha": 8}
    assert overrides_of({SCALE: 0.01}, rank=16) == {"lora.alpha": 1}
    assert overrides_of({"lora.r": 8}, rank=16) == {"lora.r": 8}
    assert settings_name({"lora.r": 8, SCALE: 2}) == "r=8, scale=2"


def test_combinations_are_all_of_them() -> None:
    pair = [choices("lora.r", (8, 16)), choices("task.style", ("plain", "structured"))]
    every = combinations(pair)
    assert every is not None
    assert list(every)[1] == {"lora.r": 8, "task.style": "structured"}
    assert combinations([*pair, number_range("lora.dropout", 0.0, 0.1)]) is None


METHOD = choices("training.method", ("full", "lora"))
RANK = Dimension("lora.r", (4, 8), needs=("training.method", ("lora",)))
RATE = Dimension(
    "training.learning_rate",
    low=0.1,
    high=10.0,
    logarithmic=True,
    origin_key="training.method",
    origins={"full": 2e-5, "lora": 1e-3},
)


def test_what_decides_nothing_is_not_set() -> None:
    space = [RANK, METHOD]
    assert decode(space, {"training.method": 0, "lora.r": 1}) == {"training.method": "full"}
    assert decode(space, {"training.method": 1, "lora.r": 1}) == {"lora.r": 8, "training.method": "lora"}
    assert encode(space, {"training.method": "full"}) == {"training.method": 0}
    assert encode(space, {"training.method": "lora"}) is None, "its rank is missing"
    assert RANK.decides({}), "where the other one is not varied"
    every = combinations(space)
    assert every is not None
    assert {"training.method": "full"} in list(every)


def test_multiples_are_of_what_suits_the_other_setting() -> None:
    space = [RATE, METHOD]
    for method, origin in RATE.origins.items():
        for multiple in (0.1, 1.0, 3.3333, 10.0):
            drawn = {"training.method": METHOD.values.index(method), "training.learning_rate": multiple}
            settings = decode(space, drawn)
            assert settings["training.learning_rate"] == pytest.approx(multiple * origin, rel=5e-3)
            assert encode(space, settings) == pytest.approx(drawn, rel=5e-3)
    assert encode(space, {"training.method": "full", "training.learning_rate": 1e-3}) is None
    assert RATE.describe() == "0.1..10.0 times 2e-05 (full), 0.001 (lora)"
