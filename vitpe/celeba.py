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
LEFT_EYE: Final = (69, 111)
RIGHT_EYE: Final = (108, 111)
"""(x, y) at which the alignment puts the eyes' centres; left and right are the image's, not the person's."""
MEAN: Final = (0.5061, 0.4254, 0.3828)
STD: Final = (0.3105, 0.2903, 0.2896)
"""Of the training split's pixels in [0, 1], red, green, blue."""
