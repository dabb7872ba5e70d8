"""A probe as a JSON-able dictionary. Scores are in [0, 1]; what is undefined is null."""

from dataclasses import asdict
from typing import Any

from vitpe.inference.positions import CHANGES
from vitpe.inference.probe_result import LayerProbe, PositionProbe
from vitpe.metrics.ablation import ABLATION_METRICS, Ablation, Ablations
from vitpe.metrics.comparison import PairedDifference
from vitpe.metrics.position import Estimates
from vitpe.reporting.records import plain


def probe_record(probe: PositionProbe) -> dict[str, Any]:
    """Every number of the probe; a difference is that to the model with its embeddings as they are."""
    ablations = probe.ablations
    record = {
        **asdict(probe.info),
        "num_images": ablations.num_images,
        "num_resamples": ablations.num_resamples,
        "as_they_are": {name: asdict(mean) for name, mean in ablations.means.items()},
        "changes": [
            {
                "change": change.name,
                "meaning": change.meaning,
                "num_draws": change.num_draws,
                **_means(ablations.parts[change.name]),
                "attributes": _attributes(ablations, ablations.parts[change.name]),
            }
            for change in CHANGES
        ],
        "layers": _layers(probe.layers, probe.grid_size),
    }
    rounded: dict[str, Any] = plain(record)
    return rounded


def _layers(layers: LayerProbe, grid_size: tuple[int, int]) -> dict[str, Any]:
    """Linear probes of each layer, the first before the first block; distances of each block's heads, in patches."""
    known = {"with": layers.places, "without": layers.places_without}
    return {
        "num_fit": layers.num_fit,
        "num_held_out": layers.num_held_out,
        "chance": {"row": 1 / grid_size[0], "column": 1 / grid_size[1]},
        "linear_probes": [
            {"layer": layer}
            | {
                name: {axis: _estimate(found, (layer, at)) for at, axis in enumerate(("row", "column"))}
                for name, found in known.items()
            }
            for layer in range(len(layers.places.value))
        ],
        "uniform_distance": layers.uniform_distance,
        "attention_distances": [
            [_estimate(layers.distances, (block, head)) for head in range(heads.size)]
            for block, heads in enumerate(layers.distances.value)
        ],
    }


def _estimate(estimates: Estimates, at: tuple[int, ...]) -> dict[str, float]:
    ends = {"value": estimates.value, "low": estimates.low, "high": estimates.high}
    return {name: float(values[at]) for name, values in ends.items()}


def _means(part: Ablation) -> dict[str, Any]:
    return {
        metric: {
            "value": part.means[metric],
            **_difference(part.mean_change[metric], ()),
            "draws": part.draws[metric].tolist(),
        }
        for metric in ABLATION_METRICS
    }


def _attributes(ablations: Ablations, part: Ablation) -> list[dict[str, Any]]:
    return [
        {
            "attribute": name,
            **{
                metric: {"value": float(part.values[metric][a]), **_difference(part.per_attribute[metric], a)}
                for metric in ABLATION_METRICS
            },
        }
        for a, name in enumerate(ablations.attributes)
    ]


def _difference(change: PairedDifference, at: int | tuple[()]) -> dict[str, float]:
    ends = {"difference": change.value, "low": change.low, "high": change.high}
    return {name: float(values[at]) for name, values in ends.items()}
