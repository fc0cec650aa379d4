"""`lorica tune`: training settings that are worth more than the defaults, within a time limit, and whether they are."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.commands.arguments import emit, going_on, parser, resolve
from lorica.commands.pages.page_files import add_html_option
from lorica.commands.tune_attempts import attempts_dict, attempts_text, run_attempts
from lorica.commands.tune_plan import plan_study
from lorica.commands.tune_result import AttemptsResult, TuneResult, tune_dict, tune_text
from lorica.commands.tune_session import StudyCall, run_study
from lorica.errors import ConfigError
from lorica.process_start import command_started
from lorica.tuning.optuna_study import load_optuna

_EXAMPLES = """  lorica tune task=rules training=tiny input=examples/rules/posts.csv minutes=10 run_dir=runs/tune
  lorica tune task=rules model=qwen3_0_6b input=train.csv minutes=60 trials=40 --html tune.html
  lorica tune task=rules input=train.csv minutes=30 "tune.space.lora.r=[8,16,32]" tune.space.training.epochs=1..6
  lorica tune task=rules input=train.csv minutes=30 "tune.vary=[task.style,training.learning_rate]"
  lorica tune task=rules input=train.csv minutes=60 run_dir=runs/tune training.resume=true   # after a kill, for more
  lorica tune task=rules input=train.csv attempts=3 minutes_per_attempt=120                 # a written decision"""


def run(arguments: Sequence[str]) -> int:
    """Search, compare, print the verdict and the next command."""
    started = command_started()
    command = parser(
        "tune",
        "Search for training settings (prompt style, learning rate, rank, scale, dropout, modules, epochs, batch)\n"
        "within `minutes` or `trials`: optuna suggests, validation rows choose, and what does worse than others did\n"
        "at the same point ends early. The first trial is that of the settings as they are; at the end the best ones\n"
        "are compared with them on rows that no trial saw, and the command that trains with the better ones is\n"
        "printed. The best adapter so far lies on disk at every moment. After Ctrl-C or a kill, or for more minutes,\n"
        "training.resume=true goes on; only time that was used counts. A key that you set is not varied.\n"
        "docs/tune.md says more.",
        _EXAMPLES,
    )
    add_html_option(command)
    options = command.parse_args(list(arguments))
    call = StudyCall(
        options.overrides,
        words=tuple(arguments),
        resume_command=going_on("tune", arguments, "training.resume=true"),
        started=started,
        html=options.html,
    )
    if resolve(options.overrides).config.tune.attempts:
        decision = decide(call)
        emit(attempts_dict(decision), as_json=options.json, text=attempts_text(decision))
    else:
        result = find_settings(call)
        emit(tune_dict(result), as_json=options.json, text=tune_text(result))
    return 0


def find_settings(call: StudyCall) -> TuneResult:
    """Run one study, or go on with it.

    Raises MissingExtraError without optuna, ConfigError for settings, DataError for rows that are too few, ResumeError
    where another study is in the folder, or one that is not to be resumed; and what the trial of the defaults raises.
    """
    resolved = resolve(call.overrides)
    if resolved.is_set("tune.minutes_per_attempt"):
        raise ConfigError("minutes_per_attempt is set, and attempts is not", fix="add attempts=3, or set minutes=")
    load_optuna()
    return run_study(plan_study(resolved, call.overrides), call)


def decide(call: StudyCall) -> AttemptsResult:
    """Run the attempts of the configuration, or go on with them. Raises what `find_settings` raises."""
    resolved = resolve(call.overrides)
    if resolved.is_set("minutes"):
        raise ConfigError("minutes and attempts are both set", fix="set minutes_per_attempt= for each of the attempts")
    load_optuna()
    return run_attempts(plan_study(resolved, call.overrides), call)
