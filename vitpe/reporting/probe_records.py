"""A probe as a JSON-able dictionary. Scores are in [0, 1]; what is undefined is null."""

from dataclasses import asdict
from typing import Any

from vitpe.inference.positions import CHANGES
from vitpe.inference.probe_result import PositionProbe
from vitpe.metrics.ablation import ABLATION_METRICS, Ablation, Ablations
from vitpe.metrics.comparison import PairedDifference
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
    }
    rounded: dict[str, Any] = plain(record)
    return rounded


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
