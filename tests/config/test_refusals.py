"""What is refused: one clear message each, never another library's exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.config.compose import compose
from lorica.errors import ConfigError

# override(s), what the message says, what to do next
REFUSED: list[tuple[str, str, str]] = [
    ("inference.stop=['']", "inference.stop takes a list of texts", ""),
    ("engine=transformers engine.merge=always", "engine.merge", "engine=native"),
    ("lora.rr=8", "unknown configuration key 'lora.rr'", "did you mean lora.r?"),
    ("r=8", "unknown configuration key 'r'", "did you mean lora.r?"),
    ("epochs=3", "unknown configuration key 'epochs'", "did you mean training.epochs?"),
    ("trainig.epochs=3", "unknown configuration key", "did you mean training.epochs?"),
    ("training.lerning_rate=1", "unknown configuration key", "did you mean training.learning_rate?"),
    ("seed=1", "unknown configuration key 'seed'", "did you mean training.seed or inference.seed?"),
    ("inference.max_retries=1", "unknown configuration key", "inference.validation.max_retries"),
    ("lora.zzz=1", "unknown configuration key", "the keys of lora: lora.r, lora.alpha"),
    ("zzz=1", "unknown configuration key", "`lorica config` lists all keys"),
    ("tsk=rules", "unknown configuration key 'tsk'", "did you mean task?"),
    ("modle=llama3_8b", "unknown configuration key 'modle'", "did you mean model?"),
    ("adaptrs=x", "unknown configuration key 'adaptrs'", "did you mean adapters?"),
    ("dta.x=1", "unknown configuration key 'dta.x'", "did you mean data.x?"),
    ("dta.seed=F", "unknown configuration key 'dta.seed'", "did you mean data.seed or training.seed"),
    ("dta=F", "unknown configuration key 'dta'", "did you mean data?"),
    ("adapters.pths.world.history=F", "unknown configuration key", "did you mean adapters.paths.world.history?"),
    ("taks.columns.body=text", "unknown configuration key", "did you mean task.columns.body?"),
    ("lora.rank_patern.layers.0.q_proj=2", "unknown configuration key", "lora.rank_pattern.layers.0.q_proj?"),
    ("inptu=F", "unknown configuration key 'inptu'", "did you mean input?"),
    ("ouput=F", "unknown configuration key 'ouput'", "did you mean output?"),
    ("confg=my.yaml", "unknown configuration key 'confg'", "did you mean config?"),
    ("rundir=F", "unknown configuration key 'rundir'", "did you mean run_dir?"),
    ("lroa.zzz=1", "unknown configuration key", "did you mean lora? the keys of lora: lora.r, lora.alpha"),
    ("data.=F", "unknown configuration key 'data.'", ""),
    ("hydra.run.dir=x", "unknown configuration key 'hydra.run.dir'", ""),
    ("task@other=mcq", "unknown configuration key", ""),
    ("model.dtype=int8 engine=transformers", "is computed by the native engine alone", "engine=native"),
    ("model.dtype=int4-weights engine=transformers", "is computed by the native engine alone", "engine=native"),
    ("model.dtype=int4-weights model.load_in_4bit=true", "both say how the weights are held", "set one of them"),
    ("model.dtype=int8-weights model.load_in_4bit=true", "both say how the weights are held", "set one of them"),
    ("task=mqc", "unknown preset task=mqc; there are: mcq, qa, rules, saq", "did you mean mcq?"),
    ("model=llama3", "unknown preset model=llama3", "did you mean llama3_8b?"),
    ("model=org/Mine", "unknown preset model=org/Mine", "write model.path=org/Mine"),
    ("model=", "unknown preset model=;", "model.path=FOLDER"),
    ("lora={r: 8}", "unknown preset", ""),
    ("inference.validation=false", "inference.validation is a section", "inference.validation.enabled"),
    ("data=F.csv", "data takes a table of names and texts; got 'F.csv'", "name the entry: data.NAME=F.csv"),
    ("data.algebra=", "data.algebra is empty", "data.algebra=VALUE"),
    ("adapters={a:b}", "adapters is a section", ""),
    ("mcq", "'mcq' is not an override of the form KEY=VALUE", "write task=mcq"),
    ("lora.r", "not an override", "write lora.r=VALUE"),
    ("--task=mcq", "not an override", "an option is written task=mcq"),
    ("=3", "not an override", ""),
    ("", "not an override", ""),
    ("~lora.r", "would delete a key", ""),
    ("engine.threads=100000", "engine.threads takes a whole number, at least 0 and at most 1024; got 100000", ""),
    ("model.dtype=bf16", "takes one of auto, float32", "did you mean bfloat16? The default is model.dtype=auto"),
    ("model.dtype=fp16", "takes one of auto, float32", "did you mean float16?"),
    ("model.dtype=INT8", "takes one of auto, float32", "did you mean int8?"),
    ("model.dtype=int4", "takes one of auto, float32", "did you mean int4-weights?"),
    ("model.dtype=x", "takes one of auto, float32", "the default is model.dtype=auto"),
    ("lora.r=0", "lora.r takes a whole number, at least 1; got 0", "the default is lora.r=16"),
    ("lora.r=8.5", "a whole number, at least 1; got 8.5", ""),
    ("lora.r=eight", "a whole number, at least 1; got 'eight'", ""),
    ("lora.r=1,2", "got '1,2'", "a run takes one value"),
    ("lora.r=range(1,4)", "got 'range(1,4)'", "a run takes one value"),
    ("lora.r=", "a whole number, at least 1; got ''", ""),
    ("lora.r=null", "a whole number, at least 1; got null", ""),
    ("lora.r=true", "a whole number, at least 1; got true", ""),
    ("lora.r=[8]", "a whole number, at least 1; got [8]", ""),
    ("lora.r=(((", "got '((('", ""),
    ("lora.r=8\n9", "got '8\\n9'", ""),
    ("lora.dropout=1", "lora.dropout takes a number, at least 0 and at most 0.99; got 1", ""),
    ("lora.dropout=0.999993", "lora.dropout takes a number, at least 0 and at most 0.99; got 0.999993", ""),
    ("lora.dropout=-0.1", "at least 0 and at most 0.99", ""),
    ("lora.dropout=nan", "got nan", ""),
    ("training.max_grad_norm=inf", "got inf", ""),
    ("training.max_grad_norm=1" + "0" * 400, "training.max_grad_norm takes a number, at least 0", ""),
    ("training.val_ratio=1.0", "below 1; got 1.0", ""),
    ("training.batch_size=0", "at least 1; got 0", ""),
    ("training.learning_rate=0", "above 0 and at most 1; got 0", ""),
    ("training.scheduler=cosin", "one of cosine, linear, constant; got 'cosin'", ""),
    ("training.bf16=1", "true or false; got 1", ""),
    ("training.bf16=maybe", "true or false; got 'maybe'", ""),
    ("training.seed=-1", "at least 0 and below 4294967296; got -1", ""),
    ("task.method=guess", "one of choice, likelihood, generate; got 'guess'", ""),
    ("lora.target_modules=q_proj", "a list of texts, or all-linear; got 'q_proj'", "=[q_proj]"),
    ("lora.target_modules=q_proj,v_proj", "got 'q_proj,v_proj'", "lora.target_modules=[q_proj,v_proj]"),
    ("lora.target_modules=[q_proj,,v_proj]", "an item of '[q_proj,,v_proj]' is empty", "extra comma"),
    ("lora.target_modules=['']", "one item is ''", ""),
    ("lora.target_modules=[]", "lora.target_modules is empty", "all-linear"),
    ("lora.rank_pattern.q_proj=0", "lora.rank_pattern.q_proj takes a whole number, at least 1; got 0", ""),
    ("lora.rank_pattern={q_proj}", "'q_proj' is not NAME:VALUE", ""),
    ("task.positive_labels=[No] task.negative_labels=[NO]", "'no' is in both", "each label means one thing"),
    ("input=${nope}", "input: cannot resolve '${...}'", r"write \${"),
    ("input=${input}", "input: cannot resolve", ""),
    ("input=${unclosed", "cannot resolve", ""),
    ("lora.r=${model.name}", "lora.r takes a whole number, at least 1; got 'lorica_tiny'", ""),
    ("task.positive_labels=[${nope}]", "task.positive_labels: cannot resolve", ""),
    ("task=mcq task.method=generate", "task.method=generate (command line) is not a method", "task=mcq"),
    ("task=qa task.style=plain", "task.style=plain (command line) is a style of rules", ""),
    ("task.name=qa task.method=generate", "is a style of rules; task.name=qa", "choose the task with task=qa"),
    ("training.per_subject=true data.algebra=a.csv", "training.per_subject=true (command line) divides one file, and "
     "data.algebra=a.csv is", "input=FILE with training.per_subject=true, or data.SUBJECT=FILE without it"),
    ("task.style=", "task.style is empty", "task.style=plain"),
    ("task.columns.rule=r task.constants.rule=x", "task.columns.rule and task.constants.rule are both", ""),
    ("model.path=", "model.path is empty", ""),
    ("model.device=cuda model.device_map=auto", "both place the model", ""),
    ("training.fp16=true training.bf16=true", "training.fp16=true (command line)", "set one"),
    ("training.early_stopping=2 training.val_ratio=0", "training.early_stopping=2", "val_ratio=0.15"),
    ("inference.min_new_tokens=9 inference.max_new_tokens=8", "is more than inference.max_new_tokens=8", ""),
    ("inference.do_sample=true", "inference.temperature=0.0 (schema default)", "=0.7"),
    ("inference.do_sample=false inference.temperature=0.5", "has no effect", ""),
    ("config=nowhere.yaml", "there is no configuration file 'nowhere.yaml'", ""),
]  # fmt: skip


def _words(line: str) -> list[str]:
    """The overrides of one case: several where each of the space-separated words holds a "="."""
    words = line.split(" ")
    return words if all("=" in word for word in words) else [line]


@pytest.mark.parametrize(("line", "message", "fix"), REFUSED)
def test_refused(line: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(_words(line), environ={})
    assert message in caught.value.message
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


FILES: list[tuple[str, str, str]] = [
    ("lora: {rr: 8}", "unknown configuration key 'lora.rr'", "did you mean lora.r?"),
    ("lora: 8", "lora is a section of keys; got 8", "- lora: 8"),
    ("inference: {validation: true}", "inference.validation is a section of keys", ""),
    ("lora:\n  r: 0\n", "lora.r takes a whole number, at least 1; got 0", ""),
    ("lora:\n  r: '8'\n", "lora.r takes a whole number, at least 1; got '8'", ""),
    ("lora:\n  r:\n", "got null", "leave the key out"),
    ("lora:\n  target_modules: q_proj\n", "a list of texts, or all-linear; got 'q_proj'", ""),
    ("task: {positive_labels: [yes]}", "one item is true", "quote it"),
    ("input: 5", "input takes text; got 5", "quote it: '5'"),
    ("data: {1: a.csv}", "the name 1 is not a text", "quote it: '1'"),
    ("data: [a.csv]", "data takes a table", ""),
    ("data: {a: [x]}", "data.a takes text; got [x]", ""),
    ("defaults: {task: mcq}", "`defaults` is a list of presets", ""),
    ("defaults: [mcq]", "'mcq' under `defaults` is not `GROUP: PRESET`", ""),
    ("defaults: [{tsk: mcq}]", "unknown group 'tsk'", "did you mean task?"),
    ("defaults: [{task: mqc}]", "unknown preset task=mqc", "did you mean mcq?"),
    ("lora:\n  r: 8\n  r: 9\n", ":3: not YAML: found duplicate key r", ""),
    ("lora: [unclosed\n", "not YAML", ""),
    ("- a\n- b\n", "not a mapping", ""),
    ("just words", "unknown configuration key 'just words'", ""),
    ("input: ${nope}", "input: cannot resolve", ""),
    ("lora: !!python/object:os.system {}", "not YAML: could not determine a constructor", ""),
]


@pytest.mark.parametrize(("text", "message", "fix"), FILES)
def test_a_file_is_refused_by_name(tmp_path: Path, text: str, message: str, fix: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose([f"config={file}"], environ={})
    assert caught.value.message.startswith(str(file))
    assert message in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x00", b"\xe4: 1"])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "my.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"my\.yaml"):
        compose([f"config={file}"], environ={})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        compose([f"config={tmp_path}"], environ={})


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("# all commented out\nlora:\n  # r: 8\n")
    assert compose([f"config={file}"], environ={}).config == compose([], environ={}).config


def test_a_contradiction_names_both_sources() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["inference.do_sample=true"], environ={"TEMPERATURE": "0"})
    assert "inference.do_sample=true (command line)" in caught.value.message
    assert "inference.temperature=0.0 (environment TEMPERATURE)" in caught.value.message
