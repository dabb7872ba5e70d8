"""Which groups of training images come equally often, and how that is told."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitpe.data.balance import Indices
from vitpe.data.corrections import choose_attributes
from vitpe.data.samples import Samples
from vitpe.errors import UsageError
from vitpe.metrics.groups import group_by


@dataclass(frozen=True)
class BalancedGroups:
    """The groups that have images. names: as "Male=1,Young=0". members: the numbers of each group's images.

    empty: the names of those that have none.
    """

    names: tuple[str, ...]
    members: tuple[Indices, ...]
    empty: tuple[str, ...]

    def describe(self) -> Iterator[str]:
        """What the user should know, a line each."""
        num_images = sum(map(len, self.members))
        share = num_images / len(self.members)
        draws = f"{num_images:,} draws, {share:,.0f} from each of {len(self.members)} groups"
        yield f"balanced: an epoch is {draws}; an image is drawn"
        for name, images in zip(self.names, self.members, strict=True):
            yield f"  {share / len(images):.3g} times of {len(images):,} with {name}"
        if self.empty:
            yield f"no image is in {' nor in '.join(self.empty)}: balanced without"


def balanced_groups(labelled: Samples, by: tuple[str, ...]) -> BalancedGroups:
    """Part the images by the product of these labels. UsageError for a name without labels, and when all images are in
    one group.
    """
    labels = choose_attributes(labelled, by).labels
    grouping = group_by(labels, by, dict.fromkeys(by))
    found, empty = [], []
    for number, name in enumerate(grouping.names):
        images = np.flatnonzero(grouping.group_of == number)
        found.append((name, images)) if len(images) else empty.append(name)
    if len(found) < 2:
        raise UsageError(
            f"all {len(labels):,} training images are in the group {found[0][0]}", "balance by attributes that vary"
        )
    names, members = zip(*found, strict=True)
    return BalancedGroups(names, members, tuple(empty))
