"""The images that a model mixes up: which are shown, their pixels at view size, and the web page that shows them."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitpe.config import DRAWN_FACES
from vitpe.inference.answers import Answers
from vitpe.metrics.mistakes import Mistakes, find_mistakes
from vitpe.reporting.page import render, shared_text
from vitpe.reporting.report_page import title
from vitpe.text import printable

MAX_ATTRIBUTES: Final = 50
"""More images would make a page that opens slowly: those with most mistakes are shown."""
NUM_IMAGES: Final = 6
"""Of each kind of mistake of an attribute."""
VIEW_HEIGHT: Final = 218
"""At most, in pixels: CelebA's own."""
_JPEG_QUALITY: Final = 88

KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "false_positives": ("False positives", "answered present, labelled absent; the surest first"),
    "false_negatives": ("False negatives", "answered absent, labelled present; the surest first"),
    "least_certain": ("Least certain", "nearest to the threshold, right or wrong"),
}
"""Of Mistakes' fields: heading and meaning."""
NOTICE: Final = (
    "This file holds images of the data. CelebA's, and those of data made from it, may not be passed on or published:"
    " keep it on your disk."
)


@dataclass(frozen=True)
class Gallery:
    """Answers whose samples are known, and the numbers of those attributes that are shown, in the answers' order."""

    answers: Answers
    columns: tuple[int, ...]

    @staticmethod
    def of(answers: Answers) -> "Gallery":
        """All attributes, or those with most mistakes where there are too many. ValueError without samples."""
        if answers.samples is None:
            raise ValueError("a gallery needs images")
        num_mistakes = ((answers.probs >= answers.thresholds) != answers.truth()).sum(axis=0)
        most = np.argsort(-num_mistakes, kind="stable")[:MAX_ATTRIBUTES]
        return Gallery(answers, tuple(sorted(most.tolist())))

    @cached_property
    def mistakes(self) -> tuple[Mistakes, ...]:
        """Of each attribute that is shown."""
        answers, labels = self.answers, self.answers.truth()
        return tuple(
            find_mistakes(answers.probs[:, a], labels[:, a], float(answers.thresholds[a]), NUM_IMAGES)
            for a in self.columns
        )

    @property
    def notice(self) -> str | None:
        """What has to be said of the images; None for those that vitpe drew itself."""
        samples = self.answers.samples
        return None if samples is None or samples.source == DRAWN_FACES else NOTICE

    def note(self) -> str | None:
        """What is left out, None for nothing."""
        shown, total = len(self.columns), len(self.answers.attributes)
        if shown == total:
            return None
        return f"the gallery has the {shown} attributes with most mistakes, of {total:,}: --attributes chooses others"

    def images(self) -> dict[int, Image.Image]:
        """Number → image at view size, each once; VitpeError for one that can no longer be read."""
        samples = self.answers.samples
        assert samples is not None
        wanted: set[int] = set()
        for found in self.mistakes:
            for kind in KINDS:
                wanted.update(getattr(found, kind).tolist())
        numbers = sorted(wanted)
        return {
            number: _at_view_size(pixels) for number, pixels in zip(numbers, samples.read_each(numbers), strict=True)
        }


def gallery_html(gallery: Gallery) -> str:
    """The page, its images in it as JPEG."""
    answers, images = gallery.answers, gallery.images()
    labels = answers.truth()
    places = {number: place for place, number in enumerate(images)}

    def shown(a: int, found: NDArray[np.intp]) -> list[list[float]]:
        """Place among the images, probability, label."""
        return [
            [places[number], round(float(answers.probs[number, a]), 4), int(labels[number, a])]
            for number in found.tolist()
        ]

    data: dict[str, Any] = {
        "notice": gallery.notice,
        "notes": [printable(note) for note in (*answers.notes, gallery.note()) if note],
        "num_images": len(answers.names),
        "size": list(next(iter(images.values())).size),
        "kinds": [{"key": key, "heading": heading, "meaning": meaning} for key, (heading, meaning) in KINDS.items()],
        "attributes": [
            {
                "name": printable(answers.attributes[a]),
                "threshold": round(float(answers.thresholds[a]), 4),
                "num_present": int(labels[:, a].sum()),
                "num_false_positives": found.num_false_positives,
                "num_false_negatives": found.num_false_negatives,
            }
            | {kind: shown(a, getattr(found, kind)) for kind in KINDS}
            for a, found in zip(gallery.columns, gallery.mistakes, strict=True)
        ],
        "images": [[printable(answers.names[number]), _jpeg(image)] for number, image in images.items()],
    }
    return render(shared_text("gallery.html"), f"What {title(answers.info)} mixes up", data)


def _at_view_size(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.height <= VIEW_HEIGHT:
        return image
    width = max(1, round(image.width * VIEW_HEIGHT / image.height))
    return image.resize((width, VIEW_HEIGHT), Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(data.getvalue()).decode("ascii")
