"""The files that `eval` writes beside what it shows: whether each can be written is known before the work."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitpe.outputs import check_distinct, check_new, check_output

if TYPE_CHECKING:
    from vitpe.inference.answers import Answers
    from vitpe.inference.eval_result import EvalResult


@dataclass(frozen=True)
class EvalFiles:
    """By option; None for what is not asked for."""

    report: Path | None
    gallery: Path | None
    suspects: Path | None
    maps: Path | None
    answers: Path | None

    def check(self) -> None:
        """Raise what would hinder writing one of them, or two that are the same."""
        if self.report is not None:
            check_output(self.report, (".png", ".html"), "--report")
        if self.maps is not None:
            check_output(self.maps, ".png", "--maps")
        if self.gallery is not None:
            check_output(self.gallery, (".html", ".png"), "--gallery")
        if self.suspects is not None:
            check_new(self.suspects, ".csv", "--suspects")
        if self.answers is not None:
            from vitpe.reporting.answer_files import check_answers_file

            check_answers_file(self.answers)
        check_distinct({f"--{option}": path for option, path in vars(self).items()})

    def write(self, result: "EvalResult", found: "Answers", shown: "Answers") -> None:
        """All but the report and the labels to doubt, which `show_answers` makes of what it shows. found: all answers
        of the result. shown: of the attributes that are asked for.
        """
        if self.answers is not None:  # before what opens images again, and may fail
            store_answers(self.answers, found)
        if self.gallery is not None:
            _write_gallery(self.gallery, shown)
        if self.maps is not None:
            from vitpe.cli.map_output import store_mean_maps

            store_mean_maps(self.maps, result, shown.attributes)


def store_answers(path: Path, answers: "Answers") -> None:
    """Write them to a file whose name says in which form."""
    from vitpe.cli.console import show_note
    from vitpe.files import write_atomic
    from vitpe.reporting.answer_files import answers_bytes

    write_atomic(path, answers_bytes(answers, path.suffix.lower()))
    show_note(f"wrote {len(answers.names):,} answers to {path}")


def _write_gallery(path: Path, answers: "Answers") -> None:
    """The images that a model mixes up, as a page or a picture."""
    from vitpe.cli.console import show_note
    from vitpe.files import write_atomic
    from vitpe.reporting.gallery import Gallery, gallery_html

    gallery = Gallery.of(answers)
    if path.suffix.lower() == ".html":
        data = gallery_html(gallery).encode()
    else:
        from vitpe.reporting.gallery_picture import gallery_png

        data = gallery_png(gallery)
    write_atomic(path, data)
    for note in (gallery.note(), gallery.notice):
        if note is not None:
            show_note(note if note != gallery.notice else f"{path}: {note}")
