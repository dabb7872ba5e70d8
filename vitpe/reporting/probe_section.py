"""A probe of position embeddings as a run's page shows it, and as its folder keeps it."""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from vitpe.inference.probe_result import PositionProbe
from vitpe.metrics.ablation import ABLATION_METRICS
from vitpe.outputs import MARK
from vitpe.reporting.page import packed
from vitpe.reporting.probe_records import probe_record

FORMAT_VERSION: Final = 1
MAX_HEADS: Final = 12
MAX_ATTENTION_BYTES: Final = 600_000
"""Of attention from position alone, before it is packed: beyond, only the last probe's is on the page."""
NUM_LOSERS: Final = 3
_CHANCE: Final = {"accuracy": "majority_accuracy", "average_precision": "prevalence"}


def probe_section(probes: Sequence[PositionProbe]) -> dict[str, Any]:
    """JSON-able. probes: of one model, by step. Scores are in [0, 1], differences to the model as it is."""
    return {
        "generator": MARK,
        "format_version": FORMAT_VERSION,
        "grid_size": list(probes[0].grid_size),
        "probes": [_probe(probe) for probe in probes],
    } | _attention(probes)


def parse_probe_section(text: bytes) -> dict[str, Any] | None:
    """What `probe_section` gave; None for anything else, and for what another version of vitpe wrote."""
    try:
        section = json.loads(text)
        known = section["generator"] == MARK and section["format_version"] == FORMAT_VERSION
        return section if known and section["probes"] else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _probe(probe: PositionProbe) -> dict[str, Any]:
    record = probe_record(probe)
    means = record["as_they_are"]
    return {
        "step": probe.info.step,
        "checkpoint": probe.info.checkpoint,
        "images": probe.info.images,
        "num_images": record["num_images"],
        "as_they_are": {metric: means[metric]["value"] for metric in ABLATION_METRICS},
        "chance": {metric: means[_CHANCE[metric]]["value"] for metric in ABLATION_METRICS},
        "changes": [
            {key: change[key] for key in ("change", "meaning", *ABLATION_METRICS)}
            | {"losers": _losers(change["attributes"])}
            for change in record["changes"]
        ],
        "layers": record["layers"],
    }


def _losers(attributes: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """The attributes that lose most average precision, the one that loses most first, as (name, difference)."""
    known = [(each["attribute"], each["average_precision"]["difference"]) for each in attributes]
    lost = sorted((pair for pair in known if pair[1] is not None and pair[1] < 0), key=lambda pair: pair[1])
    return [list(pair) for pair in lost[:NUM_LOSERS]]


def _attention(probes: Sequence[PositionProbe]) -> dict[str, Any]:
    """attention: of each probe shown, the index `probe`, and what a value of 255 means, times what each patch would get
    if all were alike. packed_attention: of each of these the first heads' weights (h, N, N), one after the other.
    """
    size = probes[0].layers.position_attention[:MAX_HEADS].size
    first = 0 if size * len(probes) <= MAX_ATTENTION_BYTES else len(probes) - 1
    facts, parts = [], []
    for index, probe in list(enumerate(probes))[first:]:
        heads = probe.layers.position_attention
        times = heads[:MAX_HEADS] * heads.shape[-1]
        high = max(float(np.quantile(times, 0.995)), 1.0 + 1e-6)
        facts.append({"probe": index, "high": high})
        parts.append(np.rint(255 * np.clip(times / high, 0, 1)).astype(np.uint8))
    num_heads = len(probes[0].layers.position_attention)
    return {
        "attention": facts,
        "num_heads": num_heads,
        "num_heads_shown": min(num_heads, MAX_HEADS),
        "packed_attention": packed(parts),
    }
