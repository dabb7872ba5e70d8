"""How an image of any shape becomes one of the size that a model is given: `data.fit`. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from vitpe import celeba
from vitpe.config import DataConfig, Fit
from vitpe.data.images import Pixels, center_crop, crop_and_resize
from vitpe.data.samples import stored_size

_WORTH_SAYING: Final = 0.03
"""Of a side; the margin that random crops need is below."""


@dataclass(frozen=True)
class Fitting:
    """Brings images to `stored_size`, in whose middle lies what a model is given of them.

    stored_size: (height, width) at which they wait; training takes a random part of them, all else the middle one.
    img_size: (height, width) of that part. mean: of the pixels / 255, a channel each: the colour of borders.
    fit: "crop" takes the largest part in the middle that has the shape, as CelebA's images are cut; of that the model
    sees all but the margin that the random crops need. "pad" shows the model the whole image, in its own shape, between
    borders; "stretch" the whole image in the model's shape. For both the margin is border.
    """

    stored_size: tuple[int, int]
    img_size: tuple[int, int]
    fit: Fit = "crop"
    mean: tuple[float, ...] = celeba.MEAN

    @staticmethod
    def of(config: DataConfig, img_size: tuple[int, int]) -> "Fitting":
        """As a configuration has it, for a model of that size."""
        return Fitting(stored_size(img_size), img_size, config.fit, config.mean)

    def __call__(self, image: Pixels) -> Pixels:
        """uint8 (3, H, W) RGB of any size → (3, *stored_size)."""
        if self.fit == "crop":
            return crop_and_resize(image, self.stored_size)
        height, width = self._shown(*image.shape[-2:])
        photo = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        if photo.size != (width, height):
            photo = photo.resize((width, height), Image.Resampling.BILINEAR)
        canvas = np.empty((*self.stored_size, 3), dtype=np.uint8)
        canvas[:] = self.border
        # The part that is seen lies where `center_crop` takes it; the image in it where ImageOps.pad puts it.
        top, left = (
            (stored - seen) // 2 + round((seen - shown) / 2)
            for stored, seen, shown in zip(self.stored_size, self.img_size, (height, width), strict=True)
        )
        canvas[top : top + height, left : left + width] = np.asarray(photo)
        return canvas.transpose(2, 0, 1)

    def view(self, image: Pixels) -> Pixels:
        """uint8 (3, H, W) RGB of any size → (3, *img_size), what a model is given outside training."""
        return center_crop(self(image), self.img_size)

    def place(self, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where `view` puts what is in an image of `size`: (factor, shift) for rows, and for columns; what is c pixels
        from the image's edge is factor * c + shift from the view's.
        """
        if self.fit == "crop":
            scale = min(size[0] / self.stored_size[0], size[1] / self.stored_size[1])
            parts = [max(1, round(side * scale)) for side in self.stored_size]
            factors = [stored / part for stored, part in zip(self.stored_size, parts, strict=True)]
            starts = [(side - part) // 2 for side, part in zip(size, parts, strict=True)]
            margins = [(stored - seen) // 2 for stored, seen in zip(self.stored_size, self.img_size, strict=True)]
            shifts = [-factor * start - m for factor, start, m in zip(factors, starts, margins, strict=True)]
        else:
            shown = self._shown(*size)
            factors = [part / side for part, side in zip(shown, size, strict=True)]
            shifts = [round((seen - part) / 2) for seen, part in zip(self.img_size, shown, strict=True)]
        return (factors[0], shifts[0]), (factors[1], shifts[1])

    @property
    def border(self) -> tuple[int, ...]:
        """(R, G, B) of borders, 0 to 255: what normalisation turns into nearly 0."""
        return tuple(round(255 * value) for value in self.mean)

    def note(self, sizes: Sequence[tuple[int, int]]) -> str | None:
        """What to say of images of these sizes (height, width): of the one that changes most; None where all have
        CelebA's, and for none.
        """
        if self.fit == "crop":
            sizes = [size for size in sizes if size != celeba.SIZE]
        if not sizes:
            return None
        hidden = {size: [(1 - share) / 2 for share in self._shares(*size)] for size in sizes}
        height, width = max(sizes, key=lambda size: max(hidden[size]))
        one = f"one of {width} x {height} pixels"
        if self.fit == "pad":
            share = 1 - np.prod(self._shown(height, width)) / np.prod(self.img_size)
            return f"whole images are shown, between borders of the mean colour: {share:.0%} of the picture for {one}"
        if self.fit == "stretch":
            return f"whole images are shown, stretched to the model's shape: {one}"
        places = zip(("top and bottom", "left and right"), hidden[height, width], strict=True)
        lost = [f"{share:.0%} at the {place}" for place, share in places if share >= _WORTH_SAYING]
        if not lost:
            return f"images of other sizes are resized: {one}"
        return f"images of other shapes are cropped: {one} loses {' and '.join(lost)}; data.fit=pad shows all of it"

    def _shown(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that a whole image of these sides gets."""
        if self.fit == "stretch":
            return self.img_size
        scale = min(self.img_size[0] / height, self.img_size[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _shares(self, height: int, width: int) -> tuple[float, float]:
        """Of an image's height and width what a model sees when it is cropped, in [0, 1]."""
        scale = min(height / self.stored_size[0], width / self.stored_size[1])
        tall, wide = (scale * side for side in self.img_size)
        return tall / height, wide / width
