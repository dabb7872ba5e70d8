"""Facts about CelebA's aligned images and their 40 attributes (Liu et al., ICCV 2015, arXiv:1411.7766)."""

from itertools import combinations
from typing import Final

ATTRIBUTES: Final = tuple(
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young""".split()
)
PREVALENCE: Final = tuple(
    map(
        float,
        """0.1111 0.267 0.5125 0.2046 0.0224 0.1516 0.2408 0.2345 0.2393 0.148 0.0509 0.2052 0.1422 0.0576
    0.0467 0.0651 0.0628 0.0419 0.3869 0.455 0.4168 0.4834 0.0415 0.1151 0.8349 0.2841 0.0429 0.2774
    0.0798 0.0657 0.0565 0.4821 0.2084 0.3196 0.1889 0.0485 0.4724 0.123 0.0727 0.7736""".split(),
    )
)
"""Of the published images the share that has each attribute."""
EXCLUSIVE: Final = (
    *(("No_Beard", beard) for beard in ("Goatee", "Mustache", "Sideburns")),
    *(("Bald", hair) for hair in ("Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")),
    *combinations(("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"), 2),
)
"""Pairs of attributes of which a face has one at most. The published labels hold 4,679 such pairs, among them 1,101 of
Bald and Gray_Hair (of 4,547 that are Bald: some may mean a fringe) and 1,220 of Blond_Hair and Brown_Hair."""
SIZE: Final = (218, 178)
"""(height, width) of every published image."""
NUM_PUBLISHED: Final = 202_599
NUM_TRAIN: Final = 162_770  # of these
LEFT_EYE: Final = (69, 111)
RIGHT_EYE: Final = (108, 111)
"""(x, y) at which the alignment puts the eyes' centres; left and right are the image's, not the person's."""
MEAN: Final = (0.5061, 0.4254, 0.3828)
STD: Final = (0.3105, 0.2903, 0.2896)
"""Of the training split's pixels in [0, 1], red, green, blue."""
