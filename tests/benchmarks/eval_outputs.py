"""What eval's results take beyond running the model: a line of JSON each, with seconds (the median) and bytes.

python -m tests.benchmarks.eval_outputs RUN --data celeba --by Male,Young
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from vitpe.inference.eval_options import EvalOptions, plan
from vitpe.inference.evaluate import evaluate
from vitpe.inference.groups import parse_by
from vitpe.inference.suspects import suspect_labels
from vitpe.reporting.answer_files import answers_bytes
from vitpe.reporting.gallery import Gallery, gallery_html
from vitpe.reporting.gallery_picture import gallery_png
from vitpe.reporting.group_report import group_report_png
from vitpe.reporting.report import report_png
from vitpe.reporting.report_page import report_html
from vitpe.reporting.score_records import eval_json
from vitpe.reporting.suspect_records import suspects_csv


class _Silent:
    def start(self, description: str, total: int) -> Callable[[int], None]:
        return lambda count: None

    def note(self, text: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--by", default="Male,Young")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    planned = plan([asked.run], EvalOptions(data=asked.data), lambda text: None)
    began = time.perf_counter()
    given = evaluate(planned, torch.device("cpu"), _Silent())[0].answers()
    print(json.dumps({"images": len(given.names), "loading, and running the model": time.perf_counter() - began}))
    terms = parse_by(asked.by)
    scores, groups, doubted = given.scores(), given.group_scores(terms), suspect_labels(given)
    gallery = Gallery.of(given)
    results: dict[str, Callable[[], bytes | str | None]] = {
        "scores with intervals": lambda: given.scores() and None,
        "groups with intervals": lambda: given.group_scores(terms) and None,
        "suspects": lambda: suspects_csv(suspect_labels(given)),
        "json": partial(eval_json, scores, given.info, groups=groups, suspects=doubted),
        "answers .csv": partial(answers_bytes, given, ".csv"),
        "report .html": partial(report_html, given, scores, groups, doubted),
        "report .png": partial(report_png, given.probs, given.truth(), scores, given.info),
        "groups .png": partial(group_report_png, groups, given.info),
        "gallery .html": partial(gallery_html, gallery),
        "gallery .png": partial(gallery_png, gallery),
    }
    total = 0.0
    for name, make in results.items():
        seconds = []
        for _ in range(asked.repeats):
            began = time.perf_counter()
            made = make()
            seconds.append(time.perf_counter() - began)
        total += statistics.median(seconds)
        size = None if made is None else len(made.encode(errors="surrogateescape") if isinstance(made, str) else made)
        print(json.dumps({"what": name, "seconds": round(statistics.median(seconds), 3), "bytes": size}), flush=True)
    print(json.dumps({"what": "all of it", "seconds": round(total, 3)}))


if __name__ == "__main__":
    main()
