"""`vitpe train --folds K`: K runs in one folder, and what each of them answers for the images that it never saw."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vitpe.cli.console import show_note, show_summary
from vitpe.config import RunConfig
from vitpe.errors import UsageError
from vitpe.runs.folder import RunFolder

Configured = Callable[[Path | None], RunConfig]
"""The configuration asked for; of a run's folder, as that run is to be resumed."""


def train_folds(
    configured: Configured, num_folds: int | None, folder: Path, device_name: str | None, resume: bool
) -> None:
    """Train without each fold in turn, in `folder`/fold-1, fold-2, …; then write `folder`/answers.csv.

    resume: finished runs are left as they are, one that was stopped goes on, and those that never began are begun as
    the first was.
    """
    from vitpe.cli.eval_files import store_answers
    from vitpe.cli.progress import TrainReporter

    first = folder / "fold-1"
    begun = resume and RunFolder(first).exists
    config = configured(first if begun else None)
    stored = config.data.fold[1] if begun and config.data.fold is not None else None
    if stored is not None and num_folds not in (None, stored):
        raise UsageError(f"--folds {num_folds}: the run in {folder} has {stored}", "resume without --folds")
    num_folds = num_folds or stored
    if num_folds is None:
        raise UsageError(f"{folder} holds no folds to resume", "say how many: --folds 4")
    runs = [folder / f"fold-{number}" for number in range(1, num_folds + 1)]
    if not resume:
        for run in runs:
            RunFolder(run).refuse_existing()
    with TrainReporter() as reporter:
        with reporter.doing("loading torch"):
            from vitpe.device import select_device
            from vitpe.inference.folds import out_of_fold_answers
            from vitpe.training.train import train
        device = select_device(device_name)
        for number, run in enumerate(runs, start=1):
            show_note(f"fold {number} of {num_folds}: {run}")
            one = replace(config, data=replace(config.data, fold=(number, num_folds)))
            train(one, run, device, reporter, resume=resume and RunFolder(run).exists)
        answers = out_of_fold_answers(runs, config, device, reporter)
    path = folder / "answers.csv"
    store_answers(path, answers)
    scores = answers.scores()
    show_note(f"next: vitpe eval --from-answers {shlex.quote(str(path))} --suspects suspects.csv")
    means = {name: scores.means[name].value for name in ("accuracy", "average_precision", "majority_accuracy")}
    summary = {"run": str(folder), "folds": num_folds, "answers": str(path), "out_of_fold": means}
    show_summary(summary, [f"mean_{key}: {value:.4f}" for key, value in means.items()])
