import dataclasses
import importlib.util
from pathlib import Path

import pytest

from handler.errors import BadPicture
from handler.job.alpha_check import Alpha, alpha_of, fault

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "alpha_check.py"
ALPHA = Alpha(transparent=0.4, under_half=0.5, opaque=0.3, border_transparent=0.9, mean=0.5, minimum=0.0, maximum=1.0)


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/alpha_check.py, for its made-up alphas and its recorded statistics."""
    spec = importlib.util.spec_from_file_location("alpha_check_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(**changes):
    return {"alpha": [{**dataclasses.asdict(ALPHA), **changes, "width": 64, "height": 64, "size_bytes": 1000}]}


def without(name):
    (entry,) = report()["alpha"]
    return {"alpha": [{key: value for key, value in entry.items() if key != name}]}


def test_the_output_nodes_report_is_read():
    """It has the fields of Alpha, and ignores other fields of the node's report."""
    assert alpha_of(report()) == ALPHA


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"alpha": []},
        {"alpha": [{}]},
        {"alpha": None},
        {"images": []},
        report(transparent="0.4"),
        report(mean=float("nan")),
        report(minimum=-0.1),
        report(maximum=1.1),
        *(without(field.name) for field in dataclasses.fields(Alpha)),
    ],
)
def test_a_picture_without_a_report_is_an_error(output):
    """Without the output node's report on alpha, no picture counts as transparent."""
    with pytest.raises(BadPicture):
        alpha_of(output)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (512, 192), (1024, 1024)])
def test_made_up_alphas_get_the_right_verdict(benchmark, size):
    """Veils, one transparent pixel, a rim and a texture are refused; smoke, tiny objects and outlines pass."""
    verdicts = {name: fault(benchmark.statistics(alpha), *size) for name, (alpha, _) in benchmark.corpus(*size).items()}
    expected = {name: passes for name, (_, passes) in benchmark.corpus(*size).items()}
    assert {name: verdict is None for name, verdict in verdicts.items()} == expected


def test_the_fault_says_what_is_wrong():
    """An opaque picture and an empty one, in figures."""
    veil = dataclasses.replace(ALPHA, transparent=0.0, under_half=0.001, border_transparent=0.0, mean=0.951)
    assert fault(veil, 128, 128) == "picture is opaque: alpha is under 0.5 in 0.10% of its pixels, its mean is 0.95"
    empty = dataclasses.replace(ALPHA, transparent=1.0, under_half=1.0, border_transparent=1.0, mean=0.0, maximum=0.01)
    assert fault(empty, 128, 128) == "picture is empty: 100.00% of its pixels have alpha under 0.02"


def test_recorded_pictures_keep_the_error_rates(benchmark):
    """500 pictures with the patch and 500 without, as benchmarks/alpha_check.py measured them."""
    found = benchmark.recorded()
    verdicts = {side: [each.fault is None for each in found if each.side == side] for side in benchmark.SIDES}
    assert [len(some) for some in verdicts.values()] == [500, 500]
    assert sum(verdicts["with"]) == 498
    assert sum(verdicts["without"]) <= 1
    refused = [each for each in found if each.side == "with" and each.fault is not None]
    assert [each.alpha.under_half for each in refused] == [0, 0]  # they are opaque
