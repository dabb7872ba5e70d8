"""A model card (arXiv:1810.03993) in Markdown: what a model is, of what data, how good, and what it is not for."""

from collections.abc import Sequence
from typing import Final

from vitpe.celeba import ATTRIBUTES
from vitpe.config import DRAWN_FACES
from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.scores import Scores
from vitpe.outputs import MARK
from vitpe.reporting.metric_formats import FORMATS
from vitpe.runs.metadata import CheckpointInfo
from vitpe.text import printable

_COLUMNS: Final = ("prevalence", "accuracy", "majority_accuracy", "average_precision")
_LOADING: Final = {
    "hf": """```python
from transformers import pipeline

classify = pipeline("image-classification", model="FOLDER")  # this folder, or its name on the hub
classify("face.jpg", top_k=5)
```

The answers are sigmoids, one an attribute; `config.json` has the thresholds at which vitpe calls an attribute present.
""",
    "timm": """```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or "hf-hub:USER/NAME"
```

It gives logits, one an attribute: take the sigmoid.
""",
}
_INPUT: Final = {
    ("hf", "crop"): """Images are to be cut as the training images were; a photo is stretched to their shape, not
cropped.""",
    (
        "hf",
        "pad",
    ): """It was trained on whole images between borders. This gives a photo such borders; without them it is
stretched:

```python
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("face.jpg")).convert("RGB")
photo = ImageOps.pad(photo, (WIDTH, HEIGHT), Image.Resampling.BILINEAR, color=BORDER)
```""",
    ("hf", "stretch"): """It was trained on whole images, stretched to the model's shape, as its preprocessor does.""",
    ("timm", "crop"): """Its input is HEIGHT x WIDTH pixels from the middle of images that were fitted to STORED, as
CelebA's are.""",
    ("timm", "pad"): """Its input is a whole image between borders, HEIGHT x WIDTH pixels in all, as the transform of
`timm.data.create_transform(**timm.data.resolve_model_data_config(model))` makes it.""",
    ("timm", "stretch"): """Its input is a whole image, stretched to HEIGHT x WIDTH pixels, as the transform of
`timm.data.create_transform(**timm.data.resolve_model_data_config(model))` makes it.""",
}
"""What an image must look like, by library and `data.fit`."""


def model_card(info: CheckpointInfo, library: str, scored: tuple[Scores, EvalInfo] | None) -> str:
    """library: "hf" or "timm", whose folder the card lies in. scored: on images that the model was not trained on, None
    where they are not at hand.
    """
    model = info.model
    height, width = model.img_size
    lines = [
        "---",
        f"library_name: {'transformers' if library == 'hf' else 'timm'}",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- face-attributes",
        "- vitpe",
        "---",
        f"<!-- {MARK} -->",
        "",
        f"# Vision Transformer for {_attributes(info.attributes)}",
        "",
        f"A Vision Transformer ([arXiv:2010.11929](https://arxiv.org/abs/2010.11929)) of width {model.embed_dim} and "
        f"depth {model.depth}, {model.num_heads} heads, patches of {model.patch_size} × {model.patch_size} pixels on "
        f"images of {height} × {width} (height × width). Trained by vitpe on {_data(info)}: {info.step:,} updates, "
        f"{info.images_seen:,} images seen, seed {info.seed}.",
        "",
        "## How to load it",
        "",
        _LOADING[library],
        _INPUT[library, info.fit]
        .replace("HEIGHT", str(height))
        .replace("WIDTH", str(width))
        .replace("BORDER", str(info.fitting.border))
        .replace("STORED", " × ".join(map(str, info.stored_size))),
        "",
        "## How good it is",
        "",
        *_scores(scored),
        "",
        "## What it is for, and what not",
        "",
        *_limits(info),
    ]
    return "\n".join(lines) + "\n"


def _attributes(attributes: Sequence[str]) -> str:
    return "one attribute" if len(attributes) == 1 else f"{len(attributes)} attributes"


def _data(info: CheckpointInfo) -> str:
    known = {DRAWN_FACES: "faces that vitpe draws itself", "celeba": "CelebA"}
    return known.get(info.data_source, f"images of {info.data_source}")


def _scores(scored: tuple[Scores, EvalInfo] | None) -> list[str]:
    if scored is None:
        return ["Not measured for this card."]
    scores, evaluated = scored
    mean, digits = scores.means["accuracy"], 2
    return [
        f"On {scores.num_images:,} images of {evaluated.images}, thresholds {evaluated.thresholds}, in percent: mean "
        f"accuracy {mean.value * 100:.{digits}f} "
        f"[{mean.low * 100:.{digits}f}, {mean.high * 100:.{digits}f}] (95 % interval over images), the majority answer "
        f"{scores.means['majority_accuracy'].value * 100:.{digits}f}.",
        "",
        f"| attribute | {' | '.join(FORMATS[name].name for name in _COLUMNS)} |",
        f"| --- |{' --- |' * len(_COLUMNS)}",
        *(
            f"| {_cell(name)} | {' | '.join(FORMATS[metric].text(scores[metric][a]) for metric in _COLUMNS)} |"
            for a, name in enumerate(scores.attributes)
        ),
    ]


def _limits(info: CheckpointInfo) -> list[str]:
    yes = "To study what a Vision Transformer learns, and to label images like those that it was trained on."
    if info.data_source == DRAWN_FACES:
        return [yes, "", "It knows drawings only: on photos its answers mean nothing."]
    lines = [yes, "", "Not to identify or judge people: scores are worse for those who are rare in the data."]
    if {*info.attributes} <= {*ATTRIBUTES}:
        lines += [
            "",
            "CelebA is for non-commercial research, and so is a model trained on it. Its people are celebrities, mostly"
            " young and light-skinned; several labels are matters of taste, and by one estimate a third of its images"
            " carry a wrong one (Lingenfelter, Davis and Hand, ISVC 2022).",
        ]
    return lines


def _cell(name: str) -> str:
    """A name as it stands in a table's cell: no Markdown, and no control characters."""
    return "".join(f"\\{c}" if c in "\\`*[]|<>" else c for c in printable(name))
