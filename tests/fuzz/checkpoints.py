"""Damage checkpoints in every way that comes to mind, and read them: only a VitpeError may come of it.

    python -m tests.fuzz.checkpoints [--cases 10000] [--first 0]

Case n is made from random.Random(n) alone, so that a number is all it takes to repeat one: --first n --cases 1. Each
damaged file, beside which lie a damaged config.json and a damaged index, is read by every reader there is. A reader may
accept it (a flipped bit of a weight is a weight) or raise a VitpeError of one short line that names the file; it may
not raise or warn of anything else, take 5 seconds of processor time, or a gigabyte of memory. The counts are printed as
one JSON object; the exit code is 1 when a reader did anything else.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers

from tests.helpers import COLOURS, Recorder, tiny_config
from tests.helpers.damages import DAMAGES, damage_json, wrap_keys
from tests.helpers.limits import limit_memory, peak_memory, time_limit
from vitpe.celeba import MEAN, STD
from vitpe.config import ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, load_foreign, save_checkpoint, write_tensors
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import CheckpointInfo, read_info
from vitpe.runs.state import RunProgress, load_state, save_state
from vitpe.training.loop import RunContext, Trainer
from vitpe.training.plan import Plan
from vitpe.training.train import initialize
from vitpe.training.workers import Workers
from vitpe.viz.history import read_checkpoint
from vitpe.viz.numbers import NUMBERS, checkpoint_record

MAX_SECONDS = 5
MAX_BYTES = 1 << 30
MAX_MESSAGE = 1000
REGRESSIONS = (3, 10, 37, 107, 115, 169, 192, 242, 340, 364, 432, 1870)
"""Cases that once did what they may not."""


CONFIG = {
    "image_size": [16, 24],
    "patch_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "id2label": dict(enumerate(COLOURS)),
    "pretrained_cfg": {"input_size": [3, 16, 24]},
}
"""What stands beside the file, damaged too; half of it as timm writes it."""


@dataclass
class Tally:
    """How often each reader accepted and refused, and what else happened."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    def fail(self, reader: str, text: str) -> None:
        self.counts[f"{reader}: failed"] += 1
        self.failures.append(text)


class Bench:
    """Whole files to damage, and the readers."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        config = tiny_config("data", model__num_classes=len(COLOURS))
        model = VisionTransformer(config.model)
        info = _info(config.model)
        run = RunFolder(folder)
        self.path = run.state
        self.path.parent.mkdir()
        self._config, self._index = (
            self.path.with_name(name) for name in ("config.json", "model.safetensors.index.json")
        )
        # A state of other data is the run's fault, not the file's.
        self._named = (self.path, self._index, run.path)
        plan = Plan.of(config.train, num_images=24)
        context = RunContext(run, torch.device("cpu"), Workers(), Recorder())
        self._trainer = Trainer(config.train, model, info, plan, context, "fingerprint")
        scores = {"mean_accuracy": 0.9, "mean_average_precision": 0.8}
        progress = RunProgress("fingerprint", 4, 2, scores, scored_step=4, best_score=0.9, best_step=4)
        optimizer = {name: value + 1 for name, value in self._trainer._optimizers.expected_state().items()}
        state = replace(self._trainer.state(), progress=progress, optimizer=optimizer, loss_sums=torch.tensor([1.25]))
        self.whole = []
        foreign = {"format": "pt", "other": json.dumps({"model": {"depth": 1, "img_size": [16, 24]}})}
        for write in (
            lambda: save_checkpoint(self.path, model.state_dict(), info),
            lambda: save_checkpoint(self.path, model.state_dict(), _info(config.model, history_only=True)),
            lambda: save_state(self.path, state),
            lambda: write_tensors(self.path, _hugging_face_model(config.model).state_dict(), foreign),
        ):
            write()
            self.whole.append(self.path.read_bytes())
        self.readers: dict[str, Callable[[Path], object]] = {
            "load_checkpoint": load_checkpoint,
            "read_info": read_info,
            "init": lambda path: initialize(VisionTransformer(config.model), path, COLOURS, Recorder()),
            "load_state": lambda path: self._trainer.restore(load_state(path)),
            "viz": _numbers_of,
            "index": lambda path: (_numbers_of(self._index), load_foreign(self._index)),
        }

    def run(self, case: int, tally: Tally) -> None:
        """Make the case's file and let every reader have it."""
        rng = random.Random(case)
        damage = rng.choice(DAMAGES)
        data = damage(rng, rng.choice(self.whole))
        self.path.write_bytes(wrap_keys(rng, data) if case not in REGRESSIONS and rng.random() < 0.2 else data)
        self._config.write_bytes(damage_json(rng, CONFIG))
        self._index.write_bytes(damage_json(rng, {"metadata": {}, "weight_map": {"pos_embed": self.path.name}}))
        for name, read in self.readers.items():
            began = time.process_time()
            try:
                with time_limit(MAX_SECONDS), warnings.catch_warnings():
                    warnings.simplefilter("error")
                    read(self.path)
                tally.counts[f"{name}: read"] += 1
            except VitpeError as error:
                tally.counts[f"{name}: refused"] += 1
                text = error.message
                named = any(str(path) in text for path in self._named)
                if not named or not error.hint or not text.isprintable() or len(text) > MAX_MESSAGE:
                    tally.fail(name, f"case {case}, {name}: {error.message[:MAX_MESSAGE]!r}")
            except BaseException:
                tally.fail(name, f"case {case}, {name}: {traceback.format_exc()}")
            tally.slowest_seconds = max(tally.slowest_seconds, time.process_time() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally()
    cases = [*REGRESSIONS, *range(options.first, options.first + options.cases)]
    with tempfile.TemporaryDirectory(prefix="vitpe-fuzz-") as folder:
        bench = Bench(Path(folder))
        for data in bench.whole:  # so that what readers import and keep does not count as theirs
            bench.path.write_bytes(data)
            for read in bench.readers.values():
                try:
                    read(bench.path)
                except VitpeError:
                    continue
        limit_memory(MAX_BYTES)
        began, memory = time.monotonic(), peak_memory()
        for case in cases:
            bench.run(case, tally)
    print(
        json.dumps(
            {
                "cases": len(cases),
                "counts": dict(sorted(tally.counts.items())),
                "seconds": round(time.monotonic() - began, 1),
                "slowest_seconds": round(tally.slowest_seconds, 3),
                "memory_mb": (peak_memory() - memory) // 10**6,
                "failures": tally.failures[:20],
            }
        )
    )
    return 1 if tally.failures else 0


def _info(model: ModelConfig, history_only: bool = False) -> CheckpointInfo:
    return CheckpointInfo(
        model=model,
        attributes=COLOURS,
        mean=MEAN,
        std=STD,
        thresholds=(0.5,) * len(COLOURS),
        stored_size=(218, 178),
        step=4,
        images_seen=32,
        seed=0,
        data_source="celeba",
        valid={"mean_accuracy": 0.9},
        history_only=history_only,
    )


def _hugging_face_model(model: ModelConfig) -> transformers.ViTForImageClassification:
    """Somebody else's weights for our model, but for its pos_embed, which is of another grid."""
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=model.embed_dim,
            num_hidden_layers=model.depth,
            num_attention_heads=model.num_heads,
            intermediate_size=round(model.embed_dim * model.mlp_ratio),
            image_size=16,
            patch_size=model.patch_size,
        )
    )


def _numbers_of(path: Path) -> object:
    """What viz-pe reads of a checkpoint and tells in words and numbers, all but the painting."""
    checkpoint = read_checkpoint(path)
    shown = "" if checkpoint.images_seen is None else f"{checkpoint.images_seen:,}"
    record = checkpoint_record(checkpoint, dict.fromkeys(NUMBERS))
    return checkpoint.label, shown, json.dumps(record, allow_nan=False)


if __name__ == "__main__":
    sys.exit(main())
