"""The share of a patch in an output is found through the rounding of every dtype, and nothing else passes for it."""

import math

import pytest
import torch
from layerdiffuse_alpha.measure import Measurement, measure

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WIDTH = 640  # as in SDXL


def linear():
    """(module, input, base, difference): a difference of 5 % of the weight, as patches have."""
    random = torch.Generator().manual_seed(0)
    base = torch.randn(WIDTH, WIDTH, generator=random) / math.sqrt(WIDTH)
    up, down = torch.randn(WIDTH, 8, generator=random), torch.randn(8, WIDTH, generator=random)
    difference = up @ down
    difference *= 0.05 * base.norm() / difference.norm()
    return torch.nn.Linear(WIDTH, WIDTH), torch.randn(2, 50, WIDTH, generator=random), base, difference


def convolution():
    """(module, input, base, difference): an input convolution of 4 channels that the patch makes 8 wide."""
    random = torch.Generator().manual_seed(0)
    base = torch.randn(WIDTH, 8, 3, 3, generator=random) / 6
    base[:, 4:] = 0
    difference = 0.05 * torch.randn(WIDTH, 8, 3, 3, generator=random) / 6
    module = torch.nn.Conv2d(8, WIDTH, 3, padding=1)
    return module, torch.randn(2, 8, 16, 16, generator=random), base, difference


def returned(module, given, weight, dtype, stored=None):
    """Returns what the module returns with this weight, stored in one dtype and computed in another."""
    with torch.no_grad():
        module = module.to(dtype)
        module.weight.data = weight.to(stored or dtype).to(dtype)
        return module(given.to(dtype))


@pytest.mark.parametrize("case", [linear, convolution])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("applied", [1.0, 0.0, 0.5, 2.0, -1.0])
def test_the_share_is_what_was_applied(case, dtype, applied):
    """Applied, ignored and scaled patches have their share in every dtype, and only the applied one passes."""
    module, given, base, difference = case()
    output = returned(module, given, base + applied * difference, dtype)
    found = measure(module, given.to(dtype), output, base, difference, dtype)
    assert found.conclusive
    assert found.share == pytest.approx(applied, abs=0.03)
    assert found.applied == (applied == 1)


@pytest.mark.parametrize("case", [linear, convolution])
@pytest.mark.parametrize("applied", [1.0, 0.0])
def test_weights_in_eight_bits_are_judged_by_what_is_left_of_their_noise(case, applied):
    """A patch smaller than the steps of fp8 is detected, because rounding does not correlate with it."""
    module, given, base, difference = case()
    base = base.to(torch.float8_e4m3fn).float()
    random = torch.Generator().manual_seed(1)
    weight = base + applied * difference
    weight = weight * (1 + 0.06 * torch.randn(weight.shape, generator=random))
    output = returned(module, given, weight, torch.float16)
    found = measure(module, given.half(), output, base, difference, torch.float8_e4m3fn)
    assert found.conclusive
    assert found.tolerance > 0.1
    assert found.applied == (applied == 1)


@pytest.mark.parametrize("applied", [1.0, 0.0])
def test_a_difference_too_small_for_the_dtype_is_not_judged(applied):
    """If merging in bfloat16 loses the patch, the measurement is inconclusive and raises nothing."""
    module, given, base, difference = linear()
    base, difference = base.bfloat16().float(), difference / 100
    output = returned(module, given, base + applied * difference, torch.float32, torch.bfloat16)
    assert not measure(module, given, output, base, difference, torch.bfloat16).conclusive


def test_another_adapter_does_not_count():
    """An unknown addition of twice the patch's size, and a changed bias, leave the share as it is."""
    module, given, base, difference = linear()
    other = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(9))
    other *= 2 * difference.norm() / other.norm()
    module.bias.data += 7
    for applied in (0, 1):
        output = returned(module, given, base + other + applied * difference, torch.float32)
        found = measure(module, given, output, base, difference, torch.float32)
        assert found.conclusive
        assert found.applied == bool(applied)


def test_a_module_without_its_base_weight_does_not_pass():
    """The difference alone has share 1, but what is missing counts as noise."""
    module, given, base, difference = linear()
    output = returned(module, given, difference, torch.float32)
    assert not measure(module, given, output, base, difference, torch.float32).applied


@pytest.mark.parametrize("given", [torch.zeros(2, 5, WIDTH), torch.full((2, 5, WIDTH), math.nan), torch.ones(1, WIDTH)])
def test_inputs_that_say_nothing_are_not_judged(given):
    """Zeros, NaN and a single row have no spread to measure."""
    module, _, base, difference = linear()
    output = returned(module, given, base, torch.float32)
    assert not measure(module, given, output, base, difference, torch.float32).conclusive


def test_an_output_that_overflowed_is_not_judged():
    """Infinite values in the output, which fp16 can have, are not taken for a missing patch."""
    module, given, base, difference = linear()
    output = returned(module, given, base, torch.float32)
    output[0, 0, 0] = math.inf
    assert not measure(module, given, output, base, difference, torch.float32).conclusive


@pytest.mark.parametrize(
    ("measurement", "applied"),
    [
        (Measurement(share=0.96, tolerance=0.05, noise=0.0), True),
        (Measurement(share=0.94, tolerance=0.05, noise=0.0), False),
        (Measurement(share=1.06, tolerance=0.05, noise=0.0), False),
        (Measurement(share=1.0, tolerance=0.05, noise=0.6), False),
    ],
)
def test_the_share_has_to_be_near_one(measurement, applied):
    """Too little, too much, or too much of something else does not pass as the patch."""
    assert measurement.applied == applied
