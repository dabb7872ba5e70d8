"""How many steps training can do in a given time, on this machine as it is now."""

import math
import time
from typing import Final

from vitpe.data.batches import Batches
from vitpe.errors import UsageError
from vitpe.training.loop import RunContext, Trainer

_MEASURED_SHARE: Final = 0.03  # of the time
_MAX_MEASURED_SECONDS: Final = 10.0
_RESERVE: Final = 0.03  # of the time, for writing, and for a machine that does not stay as it is
_MIN_STEPS: Final = 10


def steps_within(
    seconds: float,
    began: float,
    trial: Trainer,
    batches: tuple[Batches, Batches | None],
    num_valid: int,
    context: RunContext,
) -> int:
    """The number of steps that fit, with the scorings that go with them.

    seconds: of the whole, counted from `began` (of time.monotonic). trial: trains a few steps to see how long they take
    and is of no use afterwards. num_valid: images to score.
    Raises UsageError when the time is too short for any training.
    """
    measured = min(_MEASURED_SHARE * seconds, _MAX_MEASURED_SECONDS)
    with context.reporter.doing("measuring a step"):
        per_step, per_image = trial.measure_seconds(*batches, measured)
    # The slowest worker's: all must do as many.
    per_step, per_image = (
        value / 1e9 for value in context.workers.all_max(round(per_step * 1e9), round(per_image * 1e9))
    )
    left = (1 - _RESERVE) * seconds - (time.monotonic() - began) - len(trial.plan.evals) * num_valid * per_image
    steps = int(left / per_step)
    if steps < _MIN_STEPS:
        needed = math.ceil((seconds - left + _MIN_STEPS * per_step) / 6) / 10
        raise UsageError(
            f"{seconds / 60:g} minutes are too short: a step takes {per_step:.2g} s, all else {seconds - left:.0f} s",
            f"give it {needed:.1f} minutes at least, a smaller model, or fewer images to validate: --num-valid",
        )
    epochs = steps / trial.plan.steps_per_epoch
    context.reporter.note(
        f"{seconds / 60:g} minutes: {steps:,} steps, {epochs:.3g} epochs, as a step takes {1000 * per_step:.0f} ms now"
    )
    return steps
