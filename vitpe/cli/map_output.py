"""What `predict --maps` and `eval --maps` write."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vitpe.cli.console import show_note
from vitpe.files import write_atomic
from vitpe.inference.eval_result import EvalResult
from vitpe.inference.predict import make_pictures_folder, picture_name
from vitpe.inference.predictions import Prediction
from vitpe.outputs import refuse_foreign


def with_pictures(predictions: Iterable[Prediction], folder: Path) -> Iterator[Prediction]:
    """The same predictions, after a picture of each one's maps is in the folder as 00000001-NAME.png, numbered as the
    images come. VitpeError where it cannot be written, UsageError where another's file is in the way.
    """
    from vitpe.reporting.map_sheet import map_sheet_png

    make_pictures_folder(folder)
    number = 0
    for prediction in predictions:
        if prediction.face is None or (prediction.face.number or 1) == 1:
            number += 1
        if prediction.maps is not None:
            path = folder / picture_name(number, prediction.file, prediction.face)
            refuse_foreign(path)
            write_atomic(path, map_sheet_png(prediction))
        yield prediction


def store_mean_maps(path: Path, result: EvalResult, attributes: Sequence[str]) -> None:
    """A sheet of where a model looks on average, for some of the result's attributes."""
    from vitpe.reporting.map_sheet import mean_sheet_png

    maps = result.maps
    if maps is None:
        raise ValueError("no maps were asked for")
    columns = [result.attributes.index(name) for name in attributes]
    shown = replace(maps, mean=maps.mean[columns], error=maps.error[columns])
    write_atomic(path, mean_sheet_png(shown, attributes, result.describe()))
    total = len(result.names)
    some = f"{maps.num_images:,} of {total:,} images, taken at random"
    of = f"all {total:,} images" if maps.num_images == total else some
    show_note(f"wrote {path}: maps of {len(attributes)} attributes, the mean over {of}")
