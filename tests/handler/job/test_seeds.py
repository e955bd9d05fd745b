from handler.job import seeds
from handler.workflow.parameter import Parameter
from handler.workflow.parameters import Request

MAXIMUM = 2**53 - 1
SEED = Parameter("seed", "Sampler", "seed", {"type": "integer", "minimum": 0, "maximum": MAXIMUM}, random=True)
PROMPT = Parameter("prompt", "Prompt", "text", {"type": "string", "maxLength": 9})


def values(request, *parameters):
    return [draw.values["seed"] for draw in seeds.draws(request, parameters)]


def test_a_callers_seed_is_kept():
    """If the caller set the seed, no other one is tried."""
    (draw,) = seeds.draws(Request({"seed": 7, "prompt": "x"}), [PROMPT, SEED])
    assert draw == seeds.Draw({"seed": 7}, None)


def test_without_a_seed_one_is_drawn():
    """Seeds of two requests differ, and are in range."""
    (first,), (second,) = (values(Request({}), PROMPT, SEED) for _ in range(2))
    assert first != second
    assert 0 <= first <= MAXIMUM


def test_seeds_of_several_pictures_count_up():
    """After the largest seed comes 0."""
    assert values(Request({"seed": 7}, 3), SEED) == [7, 8, 9]
    assert values(Request({"seed": MAXIMUM}, 3), SEED) == [MAXIMUM, 0, 1]


def test_a_spare_seed_belongs_to_no_other_picture():
    """A picture that is refused is drawn again with a seed that the request does not use otherwise."""
    draws = seeds.draws(Request({}, 8), [SEED])
    assert len({draw.values["seed"] for draw in draws} | {draw.spare["seed"] for draw in draws}) == 16


def test_the_spare_seed_of_one_picture_is_one_more():
    """After the largest seed comes 0."""
    (draw,) = seeds.draws(Request({}), [SEED])
    assert draw.spare == {"seed": (draw.values["seed"] + 1) % (MAXIMUM + 1)}


def test_values_are_listed_by_name():
    """For error messages."""
    assert seeds.listed({"seed": 7, "noise": 8}) == "seed 7, noise 8"
