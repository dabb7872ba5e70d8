"""The reckoning of many GPUs, and that vitpe/presets.md has what it gives."""

import re
from dataclasses import replace

import pytest

from tests.benchmarks import gpu, scaling
from tests.helpers import REPOSITORY
from vitpe.config import PRESETS
from vitpe.model.vit import VisionTransformer, num_parameters

BASE = PRESETS["base"]
NUMBER = re.compile(r"\d[\d,.]*")
NO_NETWORK = replace(scaling.Machine(), latency=0.0, far_latency=0.0, link=1e30, network=1e30)


def test_the_documented_table_is_the_computed_one() -> None:
    computed = scaling.table(scaling.Machine())
    written = (REPOSITORY / "vitpe" / "presets.md").read_text()
    documented = written[written.index(computed.splitlines()[0]) :].strip()
    assert NUMBER.sub("", documented) == NUMBER.sub("", computed)
    numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (documented, computed)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.03, abs=0.02)  # versions of torch keep a little more or less


def test_one_gpu_shares_nothing() -> None:
    alone = scaling.step(BASE, 64, 1, scaling.Machine())
    assert alone.muon == alone.muon_alone
    assert alone.exposed == alone.sum_bytes == 0
    assert alone.products == pytest.approx(64 * gpu.operations(BASE) / 494.5e12)


def test_gradients_are_summed_in_rings() -> None:
    num_bytes = 4 * num_parameters(VisionTransformer(BASE.model))
    assert scaling.step(BASE, 64, 8, scaling.Machine()).sum_bytes == pytest.approx(2 * 7 / 8 * num_bytes)
    slow = replace(NO_NETWORK, network=1e9)
    found = scaling.step(BASE, 64, 64, slow)
    hidden = 2 / 3 * (found.products + scaling.step(BASE, 64, 1, slow).traffic)
    assert found.binds == "network"
    assert found.exposed == pytest.approx(2 * 63 / 64 * num_bytes / 6.4e9 - hidden, rel=0.01)


def test_muon_is_shared() -> None:
    """Of 49 matrices none is larger than a sixty-fourth of all but in part: 64 GPUs have one each or none."""
    one, eight, many = (scaling.step(BASE, 64, gpus, NO_NETWORK) for gpus in (1, 8, 64))
    assert 1 / 8 <= eight.muon / one.muon < 1 / 7
    assert many.muon == pytest.approx(5 * (4 * 768**2 * 3072 + 2 * 768**3) / 494.5e12)
    assert many.exposed == pytest.approx(0, abs=1e-9)


def test_the_longer_of_host_and_gpu_is_the_step() -> None:
    loop = scaling.step(PRESETS["reference"], 64, 8, scaling.Machine(), graph=False)
    assert loop.binds == "host"
    assert loop.seconds == loop.host == scaling.Machine().host_loop
    graph = scaling.step(PRESETS["reference"], 64, 8, scaling.Machine())
    assert graph.seconds == graph.gpu == graph.products + graph.traffic + graph.muon + graph.exposed
