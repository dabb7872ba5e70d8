"""`vitpe eval`: a checkpoint or answers → scores, groups, labels to doubt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from vitpe.cli.completion import attributes_of_model, sort_columns
from vitpe.cli.eval_files import EvalFiles
from vitpe.cli.options import (
    Checkpoints,
    Device,
    Labels,
    MapMethod,
    Precision,
    Relabel,
    choose_format,
    data_option,
    format_option,
    names_of,
)
from vitpe.errors import UsageError

EXAMPLES = (
    "vitpe eval\nvitpe eval runs --sort lift --report report.html\n"
    "vitpe eval runs --thresholds tune --split test\nvitpe eval --compare runs/a runs/b --sort difference\n"
    "vitpe eval runs --by Male --sort gap --answers answers.csv\n"
    "vitpe eval --from-answers answers.csv --by Blond_Hair,Male"
)


def evaluate(
    checkpoints: Checkpoints = None,
    data: Annotated[str | None, data_option("what the model was trained on")] = None,
    labels: Labels = None,
    relabel: Relabel = None,
    split: Annotated[
        Literal["train", "valid", "test"], typer.Option(help="Images to score; use test for the final report only.")
    ] = "valid",
    thresholds: Annotated[
        str | None,
        typer.Option(
            help="A number from 0 to 1, or 'tune': fit on valid, store in the checkpoint; report with --split test.",
            show_default="the checkpoint's",
            rich_help_panel="Decisions",
            autocompletion=lambda: ["tune"],
        ),
    ] = None,
    criterion: Annotated[
        Literal["f1", "balanced_accuracy", "accuracy"] | None,
        typer.Option(help="Score that --thresholds tune maximises.", show_default="f1"),
    ] = None,
    calibrate: Annotated[
        Literal["temperature", "platt"] | None,
        typer.Option(help="Calibrate probabilities on valid, store that in the checkpoint; report with --split test."),
    ] = None,
    fit: Annotated[
        Literal["head"] | None,
        typer.Option(
            help="Retrain the head for --by's attributes on equally many of valid's images of each group, into --out;"
            " report with --split test."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New checkpoint for --fit head (.safetensors).")] = None,
    device: Device = None,
    precision: Precision = "fp32",
    output: Annotated[str | None, format_option("table", "json", "csv")] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="Sort attributes by a column; -COLUMN reverses the order.",
            show_default="as in the data",
            autocompletion=sort_columns,
        ),
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Score only these attributes: Smiling,Male.",
            show_default="all",
            autocompletion=attributes_of_model,
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare two checkpoints.")] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="ATTRIBUTES",
            help="Score groups of images: Male, or Male,Young (their product), or Male=1 (these images only).",
            autocompletion=attributes_of_model,
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write a report to this file: .html, .png.")] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Also write the images that the model mixes up to this file: .html, .png.")
    ] = None,
    suspects: Annotated[Path | None, typer.Option(help="Also write the labels to doubt to this CSV file.")] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Also write where the model looks on average, attribute by attribute, to this PNG file."),
    ] = None,
    map_method: MapMethod = "occlusion",
    answers: Annotated[
        Path | None,
        typer.Option(help="Also write every probability and label to this file: .csv, .jsonl, .parquet."),
    ] = None,
    from_answers: Annotated[
        Path | None, typer.Option(help="Score such a file, any model's, instead of a checkpoint; no model runs.")
    ] = None,
) -> None:
    """Score a checkpoint, attribute by attribute. Accuracy is shown beside that of the majority answer."""
    kind = choose_format(output, ("table", "json", "csv"))
    files = EvalFiles(report, gallery, suspects, maps, answers)
    if maps is None and map_method != "occlusion":
        raise UsageError(f"--map-method {map_method} without --maps", "name a file for the picture: --maps FILE.png")
    if from_answers is not None:
        runs_a_model = {
            "a checkpoint": checkpoints,
            "--data": data,
            "--labels": labels,
            "--relabel": relabel,
            "--split": split != "valid",
            "--thresholds tune": thresholds == "tune",
            "--criterion": criterion,
            "--calibrate": calibrate,
            "--fit": fit,
            "--device": device,
            "--precision": precision != "fp32",
            "--compare": compare,
            "--maps": maps,
            "--answers": answers,
        }
        _check_from_answers(runs_a_model, gallery)
    named = len(checkpoints or ())
    if named not in ((2,) if compare else (0, 1)):
        hint = "name two: vitpe eval --compare A B" if compare else "name one, or compare two: vitpe eval --compare A B"
        raise UsageError(f"{named or 'no'} checkpoint{'s' * (named > 1)} named", hint)
    if (fit is None) != (out is None):
        given_alone, needed = ("--fit head", "--out NEW.safetensors") if out is None else (f"--out {out}", "--fit head")
        raise UsageError(f"{given_alone} without {needed.split()[0]}", f"give both: {needed}")
    if compare:
        _check_comparison(files, fit, attributes, sort_of_records=sort is not None and kind != "table")

    from vitpe.inference.groups import parse_by

    terms = {} if by is None else parse_by(by)
    _check_sort(sort, compare, bool(terms))

    from vitpe.cli import console
    from vitpe.cli.eval_output import show_answers, show_comparison, stored_answers
    from vitpe.inference.eval_options import EvalOptions, plan
    from vitpe.runs.find import default_run

    files.check()
    chosen = names_of(attributes)
    options = EvalOptions(
        data=data,
        labels=labels,
        split=split,
        thresholds=thresholds,
        criterion=criterion,
        calibrate=calibrate,
        precision=precision,
        by=terms,
        suspects=suspects is not None,
        relabel=relabel,
        refit=out,
        maps=None if maps is None else map_method,
        attributes=chosen or (),
    )
    if from_answers is not None:
        found = stored_answers(from_answers, options.threshold)
        show_answers(found if chosen is None else found.only(chosen), terms, kind, sort, report, suspects)
        return
    planned = plan(checkpoints or [default_run("weights", console.show_note)], options, console.show_note)

    from vitpe.cli.progress import Counters

    with Counters() as counters:
        with counters.doing("loading torch"):
            from vitpe.device import select_device
            from vitpe.inference.evaluate import evaluate as run

        results = run(planned, select_device(device), counters)
    if compare:
        show_comparison(results[0], results[1], terms, kind, sort)
        return
    found = results[0].answers()
    shown = found if chosen is None else found.only(chosen)
    show_answers(shown, terms, kind, sort, report, suspects)
    files.write(results[0], found, shown)


def _check_from_answers(runs_a_model: Mapping[str, object], gallery: Path | None) -> None:
    """runs_a_model: options of a model, which a file of answers does without, and whether they are given."""
    if needless := [name for name, given in runs_a_model.items() if given]:
        raise UsageError(f"--from-answers with {needless[0]}", "leave one out: no model runs on answers")
    if gallery is not None:
        raise UsageError(
            "--from-answers with --gallery, and answers hold no images",
            f"name the checkpoint: vitpe eval RUN --gallery {gallery}",
        )


def _check_comparison(files: EvalFiles, fit: str | None, attributes: str | None, *, sort_of_records: bool) -> None:
    """What two checkpoints are not compared with."""
    if fit is not None:
        raise UsageError("--compare with --fit", "fit one checkpoint, then compare both")
    if files.suspects is not None:
        raise UsageError("--compare has no --suspects", "ask one model: vitpe eval RUN --suspects FILE.csv")
    if files.report is not None or sort_of_records:
        raise UsageError("--compare has no --report, and --sort for its table only", "leave the other out")
    of_one = {"--answers": files.answers, "--attributes": attributes, "--gallery": files.gallery, "--maps": files.maps}
    if needless := [name for name, given in of_one.items() if given is not None]:
        raise UsageError(f"--compare has no {needless[0]}", "score one checkpoint at a time")


def _check_sort(sort: str | None, compare: bool, by_groups: bool) -> None:
    """That there is such a column."""
    from vitpe.reporting.group_records import check_sort
    from vitpe.reporting.metric_formats import sort_key

    if compare and sort in ("difference", "-difference"):
        return
    if compare and by_groups and sort is not None:
        raise UsageError(f"--compare with --by cannot sort by {sort}", "sort by difference, or -difference")
    if by_groups:
        check_sort(sort)
    else:
        sort_key(sort)
