"""What `eval` gives: of one model's answers or of two compared, as a table, JSON, CSV and a picture."""

from dataclasses import replace
from pathlib import Path

from vitpe.cli import console
from vitpe.cli.results import write_result
from vitpe.files import write_atomic
from vitpe.inference.answers import Answers
from vitpe.inference.eval_result import EvalResult, compare_group_results, compare_results
from vitpe.inference.groups import Terms
from vitpe.inference.suspects import SuspectLabels, suspect_labels
from vitpe.metrics.groups import GroupScores
from vitpe.metrics.scores import Scores


def show_answers(
    answers: Answers, terms: Terms, kind: str, sort: str | None, report: Path | None, suspects: Path | None
) -> None:
    """terms: of the groups to score, empty for none. kind: table, json or csv. report: a page or a picture."""
    scores, info = answers.scores(), answers.info
    doubted = None if suspects is None else _write_suspects(answers, scores, suspects)
    groups = answers.group_scores(terms) if terms else None
    if kind == "table":
        from vitpe.reporting import group_table, tables

        console.show_table(
            tables.eval_table(scores, info, sort)
            if groups is None
            else group_table.group_table(groups, scores, info, sort)
        )
        if doubted is not None:
            from vitpe.reporting.suspects_table import suspects_table

            console.show_table(suspects_table(doubted))
    else:
        from vitpe.reporting import group_records, score_records

        if kind == "json":
            text = score_records.eval_json(scores, info, sort, groups=groups, suspects=doubted)
        elif groups is None:
            text = score_records.eval_csv(scores, sort)
        else:
            text = group_records.groups_csv(groups, group_records.group_order(groups, scores, sort))
        write_result(text)
    if report is not None:
        write_atomic(report, _report(report.suffix.lower(), answers, scores, groups, doubted))


def _report(
    suffix: str, answers: Answers, scores: Scores, groups: GroupScores | None, suspects: SuspectLabels | None
) -> bytes:
    if suffix == ".html":
        from vitpe.reporting.report_page import report_html

        return report_html(answers, scores, groups, suspects).encode()
    if groups is not None:
        from vitpe.reporting.group_report import group_report_png

        return group_report_png(groups, answers.info)
    from vitpe.reporting.report import report_png

    return report_png(answers.probs, answers.truth(), scores, answers.info)


def _write_suspects(answers: Answers, scores: Scores, path: Path) -> SuspectLabels:
    from vitpe.reporting.suspect_records import suspects_csv, suspects_notes

    doubted = suspect_labels(answers)
    write_atomic(path, suspects_csv(doubted).encode(errors="surrogateescape"))
    for line in suspects_notes(doubted, scores, path):
        console.show_note(line)
    return doubted


def show_comparison(first: EvalResult, second: EvalResult, terms: Terms, kind: str, sort: str | None) -> None:
    """Second against first. terms: of the groups, empty for none. kind: table, json or csv; sort: of the table."""
    if terms:
        _show_group_comparison(first, second, terms, kind, sort)
        return
    comparison = compare_results(first, second)
    if kind == "table":
        from vitpe.reporting.tables import compare_table

        console.show_table(compare_table(comparison, first.describe(), second.describe(), sort=sort))
        return
    from vitpe.reporting.score_records import compare_csv, compare_json

    is_csv = kind == "csv"
    write_result(compare_csv(comparison) if is_csv else compare_json(comparison, first.describe(), second.describe()))


def _show_group_comparison(first: EvalResult, second: EvalResult, terms: Terms, kind: str, sort: str | None) -> None:
    comparison = compare_group_results(first, second, terms)
    if kind == "table":
        from vitpe.reporting.group_comparison_table import group_comparison_table

        console.show_table(group_comparison_table(comparison, first.describe(), second.describe(), sort))
        return
    from vitpe.reporting.group_comparison_records import group_comparison_csv, group_comparison_json

    is_csv = kind == "csv"
    write_result(
        group_comparison_csv(comparison)
        if is_csv
        else group_comparison_json(comparison, first.describe(), second.describe())
    )


def stored_answers(path: Path, threshold: float | None) -> Answers:
    """Those of a file, and a note of what was assumed. threshold: for all attributes, None for the file's own."""
    from vitpe.reporting.answer_files import read_answers

    answers, notes = read_answers(path)
    for note in notes:
        console.show_note(note)
    answers = replace(answers, notes=tuple(notes))
    return answers if threshold is None else answers.at(threshold)
