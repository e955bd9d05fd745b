from handler.job import seeds
from handler.workflow.parameter import Parameter
from handler.workflow.parameters import Request

MAXIMUM = 2**53 - 1
SEED = Parameter("seed", "Sampler", "seed", {"type": "integer", "minimum": 0, "maximum": MAXIMUM}, random=True)
PROMPT = Parameter("prompt", "Prompt", "text", {"type": "string", "maxLength": 9})


def test_a_callers_seed_is_kept():
    """There is no next seed if the caller set one."""
    request = Request({"seed": 7, "prompt": "x"})
    assert seeds.of(request, [PROMPT, SEED]) == {"seed": 7}
    assert seeds.following({"seed": 7}, request, [PROMPT, SEED]) is None


def test_without_a_seed_one_is_drawn():
    """Seeds of two requests differ, and are in range."""
    first, second = (seeds.of(Request({}), [PROMPT, SEED])["seed"] for _ in range(2))
    assert first != second
    assert 0 <= first <= MAXIMUM


def test_the_next_seed_is_one_more():
    """After the largest seed comes 0."""
    assert seeds.following({"seed": 7}, Request({}), [SEED]) == {"seed": 8}
    assert seeds.following({"seed": MAXIMUM}, Request({}), [SEED]) == {"seed": 0}


def test_values_are_listed_by_name():
    """For error messages."""
    assert seeds.listed({"seed": 7, "noise": 8}) == "seed 7, noise 8"
