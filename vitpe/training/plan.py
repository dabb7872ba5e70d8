"""When a run logs, scores and keeps a checkpoint."""

from dataclasses import dataclass

import numpy as np

from vitpe.config import TrainConfig

NUM_LOG_ROWS = 200


@dataclass(frozen=True)
class Plan:
    """What happens after which step (counted from 1; 0 is before the first).

    batch_size: of an update, over all workers.
    """

    num_steps: int
    batch_size: int
    steps_per_epoch: int
    logs: frozenset[int]
    evals: frozenset[int]
    checkpoints: frozenset[int]

    @staticmethod
    def of(config: TrainConfig, num_images: int) -> "Plan":
        """Logs evenly; checkpoints denser early, where position embeddings change fastest; scorings evenly, each put
        off to the next checkpoint where there is one of its own, so that pictures and scores are of the same steps.
        """
        batch_size = min(config.batch_size, num_images)
        steps_per_epoch = num_images // batch_size
        n = config.steps
        if n is None:
            if config.epochs is None:
                raise ValueError("neither steps nor epochs say how long training takes")
            n = max(1, round(config.epochs * steps_per_epoch))
        shares = np.linspace(0, 1, config.num_checkpoints + 1)
        checkpoints = np.unique(np.ceil(n * shares**1.5).astype(int))
        evals = np.unique(np.ceil(np.linspace(0, n, config.num_evals + 1)[1:]).astype(int))
        at_checkpoints = np.unique(checkpoints[np.searchsorted(checkpoints, evals)])
        return Plan(
            num_steps=n,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            logs=frozenset(range(0, n + 1, max(1, n // NUM_LOG_ROWS))) - {0} | {n},
            evals=frozenset((at_checkpoints if len(at_checkpoints) == len(evals) else evals).tolist()),
            checkpoints=frozenset(checkpoints.tolist()),
        )
