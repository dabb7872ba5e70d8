"""Where logits come from, by what they are without a patch. Torch-free.

A patch is left out as patch dropout leaves it out in training (arXiv:2208.07220): it gets no token. So a model that was
trained so is asked about nothing that it has not seen; to one that was not, a gap is strange.
Legend for shapes: N patches, M sets of patches, K kept ones, A attributes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

KeptLogits = Callable[[NDArray[np.intp]], NDArray[np.float64]]
"""Numbers (M, K) of patches of one image → the logits (M, A) of these patches alone."""


def occlusion(kept_logits: KeptLogits, num_patches: int) -> NDArray[np.float64]:
    """(A, N): how much each logit falls when that patch alone is left out; below 0 where it rises.

    Exact, with N + 1 passes of the model (after arXiv:1311.2901, section 4.2, which covers squares with gray).
    """
    every = np.arange(num_patches)
    without = np.array([np.delete(every, patch) for patch in every])
    fall: NDArray[np.float64] = kept_logits(every[None]) - kept_logits(without)
    return fall.T
