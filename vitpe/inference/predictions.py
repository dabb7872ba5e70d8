"""What is predicted for one image, and which evaluation scores are of. No torch, no formats."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import UsageError

_PROB_DIGITS = 6


@dataclass(frozen=True)
class EvalInfo:
    """What was scored, and how.

    checkpoint: its path, or that of a file of answers. split: train, valid or test, None where nobody said.
    data_source: as in vitpe.data, or "answers". step: of the checkpoint.
    thresholds: in words, say "0.5" or "tuned on valid for f1". calibration: in words, None for none.
    precision: fp32 or bf16.
    """

    checkpoint: str
    split: str | None
    data_source: str
    step: int | None = None
    thresholds: str = "0.5"
    calibration: str | None = None
    precision: str = "fp32"

    @property
    def images(self) -> str:
        """ "celeba valid"."""
        return self.data_source if self.split is None else f"{self.data_source} {self.split}"


MapMethod = Literal["occlusion", "relevance", "attention"]
"""How maps are made; see vitpe.inference.maps."""


@dataclass(frozen=True, eq=False)
class AnswerMaps:
    """Where answers come from: attribute → (rows, columns) of patches, above 0 where a patch speaks for the answer that
    was given, be it "present" or "absent".

    image: uint8 (3, H, W), as the model saw it.
    """

    method: MapMethod
    image: NDArray[np.uint8]
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class FoundFace:
    """The face that a prediction is of, in pixels of its photo.

    count: of the faces in the photo. number: of this one, from 1, the largest; None where there is none, as the rest.
    box: (x, y, width, height). eyes: (x, y) of the one at the face's left as one sees it, and of the other.
    """

    count: int = 0
    number: int | None = None
    box: tuple[float, float, float, float] | None = None
    eyes: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def found(self) -> bool:
        return self.number is not None


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    file: as it was given. probs: attribute → probability in [0, 1], in the order in which they are listed. present:
    those of them whose probability is at least their threshold, the most probable first. error: why the file could
    not be read; probs and present are then empty. maps: where they were asked for.
    view: uint8 (3, H, W), the image as the model saw it, where that was asked for.
    face: where faces were looked for; where none was found, probs and present are empty.
    """

    file: str
    probs: Mapping[str, float] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    error: str | None = None
    maps: AnswerMaps | None = field(default=None, repr=False)
    view: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    face: FoundFace | None = None

    @property
    def no_answer(self) -> str | None:
        """Why it has no attributes; None where it was answered."""
        without_face = self.face is not None and not self.face.found
        return "no face found" if without_face else self.error

    @staticmethod
    def from_probs(
        file: str,
        probs: NDArray[np.float64],
        attributes: Sequence[str],
        thresholds: NDArray[np.float64],
        *,
        top: int | None = None,
    ) -> "Prediction":
        """From (A,) probabilities. Attributes are listed in the order given; with `top`, only that many, the most
        probable first.
        """
        ranked = np.argsort(-probs, kind="stable")[:top]
        present = ranked[probs[ranked] >= thresholds[ranked]]
        listed = range(len(attributes)) if top is None else ranked.tolist()
        rounded = probs.round(_PROB_DIGITS).tolist()
        return Prediction(file, {attributes[a]: rounded[a] for a in listed}, tuple(attributes[a] for a in present))


def select_attributes(attributes: Sequence[str], wanted: Iterable[str], where: str = "this checkpoint") -> list[int]:
    """The column numbers of `wanted` in `attributes`, in the order wanted, each once.

    Raises UsageError naming one that is not there, with the nearest that are. where: for its message.
    """
    columns = []
    for name in dict.fromkeys(wanted):
        if name not in attributes:
            raise UsageError(f"no attribute {name!r} in {where}", nearest(name, attributes))
        columns.append(attributes.index(name))
    return columns


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint: the nearest of the names that are known, or all of them."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3)]
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
