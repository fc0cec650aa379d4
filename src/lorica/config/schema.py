"""Every configuration key: its type, range, default, unit and meaning. The one place where defaults are written, with
the sections that have a file of their own.

A field's docstring stands beneath it and is what `lorica config` and docs/configuration.md print; a docstring
of a field that measures something ends with "Unit: ...". Nothing is imported here that costs time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from lorica.config.adapt_section import AdaptConfig
from lorica.config.adapters_section import AdaptersConfig
from lorica.config.folds_section import FoldsConfig
from lorica.config.reading_section import ReadingConfig
from lorica.config.retrieval_section import RetrievalConfig
from lorica.config.shallow_section import CentroidsConfig, TfidfConfig
from lorica.config.tune_section import TuneConfig
from lorica.config.value_types import LocalPath, NotNegative, Positive, Probability, Seed, Share
from lorica.engine_table import ENGINES
from lorica.precision import Dtype
from lorica.tasks import TASKS

TaskName = Annotated[str, Meta(extra={"words": TASKS})]  # read when a value is checked
Method = Literal["choice", "likelihood", "generate"]
Style = Literal["plain", "structured", "contrastive", "segments", ""]
AnswerNumbers = Literal["auto", "from_0", "from_1", "text"]
Truncate = Literal["middle", "left", "right", "error"]
Scheduler = Literal["cosine", "linear", "constant"]
Merge = Literal["auto", "never", "always"]


@dataclass(frozen=True)
class TaskConfig:
    """What is asked of each row, and how the answer is read."""

    name: TaskName = "rules"
    """The task. `rules`: does a post break a rule; `mcq`: which option is right; `saq` and `qa`: answer in a
    few words or a sentence. Choose it with `task=mcq`, which also sets the method that fits."""

    method: Method = "choice"
    """How an answer is obtained. `choice`: from the probabilities of Yes/No or of the option letters (rules,
    mcq); `likelihood`: from the length-normalised probability of each option's text (mcq); `generate`: from
    written text (rules, saq, qa)."""

    style: Style = "plain"
    """How a `rules` prompt is written, and for `rules` only: `plain`, `structured` (labelled sections with the row's
    examples), `contrastive` (the same, with three reasoning steps) or `segments` (rule, examples and post as the
    segments of an encoder's input; follows `engine.name`). Empty for every other task."""

    truncate: Truncate = "middle"
    """What is cut from a row's long texts when its prompt does not fit; `error` refuses the row instead."""

    columns: dict[str, str] = field(default_factory=dict)
    """Columns of the file under other names: what Lorica expects -> what the file calls it, as in
    `task.columns.body=text`."""

    constants: dict[str, str] = field(default_factory=dict)
    """Columns the file lacks: what Lorica expects -> one value for every row, as in
    `task.constants.rule='No unsolicited advertising'`."""

    positive_labels: list[str] = field(default_factory=list)
    """How the label column of a `rules` file spells "breaks the rule", in any capitals; empty for 1, true,
    yes, violation."""

    negative_labels: list[str] = field(default_factory=list)
    """How the label column of a `rules` file spells "keeps the rule", in any capitals; empty for 0, false,
    no, no violation."""

    answer_numbers: AnswerNumbers = "auto"
    """What a number in the answer column of `mcq` means: an option counted `from_0` or `from_1`, or the `text` of an
    option. `auto`: decided by all numbers of the file (a 0, or a number equal to the number of options, decides); if
    they leave it open, rows that need the answer are refused."""

    thinking: bool = False
    """Whether a model that can think before it answers (Qwen3, R1) does so; scored choices are never preceded by
    thinking."""

    fallback_score: Probability = 0.5
    """The score of a `rules` row whose written answer holds neither a number nor a keyword; such rows are
    counted. Unit: probability."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model."""

    name: str = "lorica_tiny"
    """The model's name in reports. Follows `model.path` when only that is set."""

    path: LocalPath = "embedded:lorica_tiny"
    """A Hugging Face id, a folder, a GGUF file, `embedded:lorica_tiny` for the small model in this package, or
    `package:NAME` for the model that an installed Python package carries. Ids are looked up in the local cache;
    nothing is downloaded."""

    revision: str = ""
    """Branch, tag or commit of a Hugging Face id; empty for `main`."""

    dtype: Dtype = "auto"
    """Number format the base computes in; `auto` is a format that this machine computes fast, never coarser than
    bfloat16: float32, int16 or bfloat16 (see `lorica doctor`). Only for answers on a CPU with the native engine:
    `int16` (more exact than bfloat16), `int8` (weights and activations in whole numbers: faster, less exact),
    `int8-weights`, `int4-weights` (half and a third of bfloat16's memory) and `gguf` (the quantized blocks of a GGUF
    file as they are: its `auto`)."""

    device: str = "auto"
    """Where the model runs: `auto`, `cpu`, `cuda`, `cuda:1`, ..."""

    device_map: str = ""
    """How the `transformers` engine spreads the model over devices (`auto`, `balanced`, ...); empty puts all
    of it on `model.device`."""

    cache_dir: LocalPath = ""
    """Folder of the Hugging Face cache; empty for the usual places (`HF_HOME`, `~/.cache/huggingface`)."""

    load_in_4bit: bool = False
    """Whether the base weights are held in four bits (NF4). Needs bitsandbytes."""

    chat_template: LocalPath = "auto"
    """`auto`: the model's own template, or the plain format where it has none, and for an encoder the tokenizer's own
    way to join texts; `plain`: the plain format; anything else is the path of a Jinja file."""


@dataclass(frozen=True)
class LoraConfig:
    """The shape of the adapters to train."""

    r: Positive = 16
    """Rank of the update. Unit: dimensions."""

    alpha: Positive = 32
    """Strength of the update: it is scaled by alpha / r, or by alpha / sqrt(r) with `lora.use_rslora`. Unit: none."""

    dropout: Annotated[float, Meta(ge=0, le=0.99)] = 0.05
    """Part of the inputs of each adapter that is zeroed while training. Unit: share of 1."""

    target_modules: list[str] | Literal["all-linear"] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    """The projections that get an adapter, by the last part of their names (also gate_proj, up_proj,
    down_proj), or `all-linear` for every linear layer but the output head."""

    use_rslora: bool = False
    """Rank-stabilised scaling: alpha / sqrt(r) instead of alpha / r."""

    rank_pattern: dict[str, Positive] = field(default_factory=dict)
    """Other ranks for some modules: the end of a module's path, or after `^` all of it -> rank; of several that fit
    the first counts. One that fits no adapted module is refused. Unit: dimensions."""

    alpha_pattern: dict[str, Positive] = field(default_factory=dict)
    """Other alphas for some modules: the end of a module's path, or after `^` all of it -> alpha; of several that fit
    the first counts. One that fits no adapted module is refused. Unit: none."""


@dataclass(frozen=True)
class TrainingConfig:
    """How adapters and classifiers are trained."""

    method: Literal["lora", "full"] = "lora"
    """What is learned. `lora`: LoRA factors, and an encoder's head; `full`: all weights, for encoders only (their
    default)."""

    head: Literal["two_classes", "one_logit"] = "two_classes"
    """How an encoder's new head tells two labels apart: by a logit for each, or by one, the log-odds of label 1."""

    epochs: Positive = 3
    """Passes over the training rows. Unit: passes."""

    batch_size: Positive = 4
    """Rows per forward and backward pass. Unit: rows."""

    gradient_accumulation_steps: Positive = 4
    """Batches whose gradients are added up before the weights change. Unit: batches."""

    share_prefixes: bool = True
    """Whether, for a decoder on a CPU, rows of an update that begin alike are batched together, in the memory of
    `training.batch_size` rows, and what they share is computed once, with the same gradients."""

    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 1e-4
    """Peak learning rate of AdamW. Unit: per update."""

    warmup_ratio: Share = 0.1
    """Part of all updates over which the learning rate rises from 0 to its peak. Unit: share of 1."""

    scheduler: Scheduler = "cosine"
    """How the learning rate continues after the warm-up: down to 0 (`cosine`, `linear`) or `constant`."""

    val_ratio: Share = 0.15
    """Rows held out to choose the best checkpoint; 0 trains on all rows and keeps the last. Unit: share of 1."""

    max_seq_length: Positive = 512
    """Longest prompt with its answer; what is longer is cut by `task.truncate`. Unit: tokens."""

    fp16: bool = False
    """Mixed precision in float16, with loss scaling, on a GPU. Not together with `training.bf16`."""

    bf16: bool = False
    """Mixed precision in bfloat16. If neither this nor `training.fp16` is set and `model.dtype=auto`, it is used if
    this machine multiplies it fast."""

    weight_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """AdamW's decoupled weight decay. Unit: share of the weight per update and learning rate."""

    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    """Largest L2 norm of the gradient over all learned weights; larger gradients are scaled down. 0 never scales. Unit:
    L2 norm."""

    logging_steps: Positive = 10
    """Distance between two lines of the training log. Unit: updates."""

    save_steps: Positive = 100
    """Distance between two checkpoints to resume from. Unit: updates."""

    eval_steps: Positive = 100
    """Distance between two evaluations on the held-out rows; there is also one after each epoch. Unit: updates."""

    save_total_limit: Positive = 2
    """Checkpoints that are kept, the best one not counted. Unit: checkpoints."""

    seed: Seed = 42
    """Decides the split, the order of rows, dropout and the first weights. Unit: none."""

    early_stopping: NotNegative = 0
    """Evaluations without improvement after which training stops; 0 never stops early. Unit: evaluations."""

    resume: bool = False
    """Whether to continue from the last checkpoint in `run_dir`, if there is one."""

    per_subject: bool = False
    """Whether each subject in the rows of `input` gets an adapter of its own, beside `general` on all rows. Spellings
    of one subject (`History`, `history.`) are one adapter, which a note says. Not together with `data.*`, which
    names one file per subject."""

    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class ValidationConfig:
    """The check of generated answers."""

    enabled: bool = True
    """Whether generated answers are validated; those that stay invalid are marked, never invented."""

    max_retries: NotNegative = 2
    """How often an invalid answer is asked for again, with another seed or temperature. Unit: retries."""


@dataclass(frozen=True)
class InferenceConfig:
    """How rows are answered."""

    max_new_tokens: Positive = 64
    """Longest generated answer, with its thought where `task.thinking` lets it think; shares the model's positions with
    the prompt. Unit: tokens."""

    do_sample: bool = False
    """Whether tokens are drawn at random; if not, the likeliest is taken. Follows `inference.temperature`
    when only that is set: above 0 samples, 0 does not."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Divides the logits before sampling: below 1 is bolder about likely tokens, above 1 flatter. 0 exactly
    when `inference.do_sample` is false. Unit: none."""

    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Samples from the likeliest tokens that together reach this probability; 1 samples from all. Unit: probability."""

    top_k: NotNegative = 0
    """Samples from this many likeliest tokens; 0 samples from all. Unit: tokens."""

    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Divides the positive (multiplies the negative) logits of tokens that were seen; 1 leaves them. Unit: factor."""

    min_new_tokens: NotNegative = 0
    """Shortest generated answer: stop tokens are impossible before it. Unit: tokens."""

    use_stop_tokens: bool = True
    """Whether generation ends at the model's stop tokens, or only at `inference.max_new_tokens`."""

    stop: list[str] = field(default_factory=list)
    """Texts that end a generated answer; the answer is what stands before the first of them. Backslash and n stands for
    a line break, as in `inference.stop=['\\n']`."""

    validation: ValidationConfig = field(default_factory=ValidationConfig)

    batch_tokens: Positive = 8192
    """Tokens computed in one forward pass: the memory budget. A longer row goes alone. Unit: tokens."""

    max_input_tokens: Positive = 1024
    """Longest prompt; what is longer is cut by `task.truncate`. Unit: tokens."""

    seed: Seed = 42
    """Decides sampling, together with the row's id. Unit: none."""

    window_rows: Positive = 1024
    """Rows read and planned together; an interrupted run repeats a batch of scores or 128 texts. Unit: rows."""

    csv_guard: bool = True
    """Whether an answer that a spreadsheet would run to some harm (a call, a link to a program or a page) is written to
    .csv as a JSON text, which is shown instead; off, every cell holds the answer as it is."""

    resume: bool = False
    """Whether to go on with the unfinished output of the same command."""

    warmup: bool = False
    """Whether the first 16 rows are computed once beforehand. Their time is discarded, so that a run in a cold process
    has the latency of a warm one; for `lorica score`."""


@dataclass(frozen=True)
class EngineConfig:
    """What computes."""

    name: Annotated[str, Meta(extra={"words": ENGINES})] = "native"
    """`native`: Lorica's own decoder; `transformers`: any decoder that transformers and PEFT know, slower; `encoder`:
    classifiers on encoders such as BERT and DeBERTa, for `rules`; `fake`: answers from a hash of the prompt, for
    trying out files and settings. Follows the model where only that is set."""

    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """CPU threads; 0 leaves the choice to torch. Unit: threads."""

    share_prefixes: bool = True
    """Whether the native engine computes the common beginning of prompts once."""

    deterministic: bool = True
    """Whether on a CPU the native engine scores a row the same to the last bit, whatever the other rows, their order,
    the batches and the number of threads, and the encoder engine, on one number of threads, each row alone; off, they
    differ by rounding."""

    merge: Merge = "auto"
    """Whether `lorica infer` with the native engine on a CPU merges the adapter into the weights when one answers all
    rows. `auto`: in float32 and bfloat16, for runs long enough to gain by it, and for scores only with
    `engine.deterministic=false`; `always`: whatever the precision and length; `never`. The run says what was decided,
    and a resumed one must decide alike."""


@dataclass(frozen=True)
class Config:
    """The whole configuration of one run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    tfidf: TfidfConfig = field(default_factory=TfidfConfig)
    centroids: CentroidsConfig = field(default_factory=CentroidsConfig)

    # The keys are `data.bad_rows`, ...: short words for what a command line often needs, beside the training files.
    reading: ReadingConfig = field(default_factory=ReadingConfig, metadata={"key": "data"})

    data: dict[str, LocalPath] = field(default_factory=dict)
    """Training files: subject -> file, as in `data.algebra=algebra.jsonl`. One adapter is trained for each,
    and with more than one also `general` on all rows."""

    input: LocalPath = ""
    """The file of rows to answer or, for `lorica train`, to train on."""

    train: LocalPath = ""
    """The file of labelled rows that `lorica adapt` trains with beside `input`."""

    output: LocalPath = ""
    """The file to write; its suffix (.jsonl, .csv, .parquet, .jsonl.gz, .csv.gz) decides the format."""

    minutes: Annotated[float, Meta(gt=0)] = 10.0
    """Time that a search (`lorica frontier`, `lorica tune`) may take in all. Unit: minutes."""

    run_dir: LocalPath = ""
    """Folder for the files of a run (logs, checkpoints, adapters); empty: beside the output or under `runs/`."""
