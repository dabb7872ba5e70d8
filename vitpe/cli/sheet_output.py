"""What `predict --sheet` writes."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from vitpe.cli.console import show_note
from vitpe.files import write_atomic
from vitpe.inference.predictions import Prediction
from vitpe.runs.metadata import CheckpointInfo


def with_sheet(
    predictions: Iterable[Prediction], path: Path, checkpoint: Path, info: CheckpointInfo, *, chosen: bool
) -> Iterator[Prediction]:
    """The same predictions; after the last of them the contact sheet is written, and nothing before.

    chosen: whether the user chose the attributes. VitpeError where it cannot be written.
    """
    from vitpe.reporting.contact_sheet import ContactSheet

    sheet = ContactSheet(checkpoint, info, path.suffix.lower(), chosen)
    for prediction in predictions:
        sheet.add(prediction)
        yield prediction
    if not sheet.tiles:
        show_note(f"no {path}: there is no image to show")
        return
    if sheet.kind == ".html":
        from vitpe.reporting.contact_sheet import sheet_html

        data = sheet_html(sheet).encode()
    else:
        from vitpe.reporting.contact_sheet_picture import sheet_png

        data = sheet_png(sheet)
    write_atomic(path, data)
    show_note(f"wrote {path}: {sheet.count_in_words()}")
