import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import backgrounds, dataset, prompts, sprites

PAIRS = [(kind, colour) for kind in sprites.KINDS for colour in sprites.COLOURS]


def draw(kind, colour="teal", seed=0, width=128, height=128, sticker=False):
    return sprites.draw(kind, colour, width, height, np.random.default_rng(seed), sticker=sticker)


def test_there_are_enough_kinds_and_colours():
    """There are 27 kinds, some of them soft, and 12 colours."""
    assert len(sprites.KINDS) == 27
    assert len(sprites.COLOURS) == 12
    assert set(sprites.SOFT) < set(sprites.KINDS)
    assert set(sprites.STICKERS) < set(sprites.KINDS) - set(sprites.SOFT)


@pytest.mark.parametrize("kind", sprites.STICKERS)
def test_a_sticker_has_a_white_border(kind):
    """A sticker is the same sprite with more around it, and this is opaque and white."""
    plain, sticker = draw(kind), draw(kind, sticker=True)
    added = (sticker.alpha == 1) & (plain.alpha == 0)
    assert added.sum() > 200
    assert (sticker.rgb[added] > 0.95).all()
    assert (sticker.alpha >= plain.alpha).all()
    np.testing.assert_allclose(sticker.rgb[plain.alpha == 1], plain.rgb[plain.alpha == 1], atol=1e-5)


@pytest.mark.parametrize("kind", sprites.KINDS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([(128, 128), (192, 128), (64, 64), (256, 256)]))
def test_a_sprite_does_not_touch_the_border(kind, seed, size):
    """Alpha and colour are in [0, 1], there is an object, and at most a wisp of it touches the border."""
    sprite = draw(kind, seed=seed, width=size[0], height=size[1])
    assert sprite.rgb.shape == (size[1], size[0], 3)
    for values in (sprite.rgb, sprite.alpha):
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() <= 1
    assert (sprite.alpha > 0.1).mean() > 0.01
    border = np.concatenate([sprite.alpha[[0, -1]].ravel(), sprite.alpha[:, [0, -1]].ravel()])
    assert (border < 0.05).mean() >= 0.75


@pytest.mark.parametrize("kind", sprites.KINDS)
def test_soft_kinds_are_soft_and_others_are_not(kind):
    """A third of a soft kind's pixels are half transparent; in other kinds only the outline is."""
    alpha = np.stack([draw(kind, seed=seed).alpha for seed in range(8)])
    soft = ((alpha > 0.1) & (alpha < 0.9)).sum() / (alpha > 0.1).sum()
    assert soft > 0.33 if kind in sprites.SOFT else soft < 0.2


def test_the_seed_determines_a_sprite():
    """The same seed draws the same, another seed something else."""
    assert np.array_equal(draw("mug").rgb, draw("mug").rgb)
    assert not np.array_equal(draw("mug").alpha, draw("mug", seed=1).alpha)


def test_colour_is_exact_even_if_it_hardly_shows():
    """The straight colour of nearly transparent smoke is as exact as that of opaque pixels."""
    sprite = draw("smoke", "red")
    faint = (sprite.alpha > 0.01) & (sprite.alpha < 0.05)
    assert faint.any()
    spread = np.ptp(sprite.rgb[faint], axis=0)
    assert spread.max() < 0.01


@given(seed=st.integers(0, 2**32))
def test_a_background_is_a_picture(seed):
    """All values are in [0, 1]."""
    picture = backgrounds.draw(64, np.random.default_rng(seed))
    assert picture.shape == (64, 64, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_drawn_sets_are_cached_and_reproducible(tmp_path):
    """A set is drawn once, the same for the same seed, and each pair of kind and colour is in it equally often."""
    first = dataset.load_sprites(tmp_path, "a", 2 * len(PAIRS), 64, 64, seed=3)
    file = next(tmp_path.glob("a_*"))
    written_ns = file.stat().st_mtime_ns
    again = dataset.load_sprites(tmp_path, "a", 2 * len(PAIRS), 64, 64, seed=3)
    assert file.stat().st_mtime_ns == written_ns
    assert np.array_equal(first.rgba, again.rgba)
    pairs, counts = np.unique(np.stack([first.kinds, first.colours]), axis=1, return_counts=True)
    assert pairs.shape[1] == len(PAIRS)
    assert set(counts) == {2}
    assert first.stickers.sum() == 2 * len(sprites.STICKERS) * len(sprites.COLOURS) / dataset.STICKER_EVERY
    assert {list(sprites.KINDS)[kind] for kind in first.kinds[first.stickers]} == set(sprites.STICKERS)
    other = dataset.load_sprites(tmp_path, "a", 2 * len(PAIRS), 64, 64, seed=4)
    assert not np.array_equal(first.rgba, other.rgba)


@pytest.mark.parametrize(("kind", "colour"), PAIRS[::5])
def test_a_plain_prompt_names_both(kind, colour):
    """Kind and colour, or a word for the same, are in each phrasing."""
    for seed in range(30):
        prompt = prompts.plain(kind, colour, np.random.default_rng(seed))
        for name in (kind, colour):
            assert any(word in prompt for word in (name, *prompts.SYNONYMS.get(name, ())))


def test_prompts_vary_and_some_are_empty():
    """Most of a thousand prompts for one sprite differ; some are empty or a common negative prompt."""
    rng = np.random.default_rng(5)
    described = [prompts.describe("apple", "red", rng) for _ in range(1000)]
    assert len(set(described)) > 400
    nothing = sum(prompt in {"", *prompts.NEGATIVE} for prompt in described)
    assert 100 < nothing < 200
    assert any(not prompt.isascii() for prompt in described)


def test_some_prompts_name_a_second_colour():
    """One prompt in seven for an apple also names its green leaf or its brown stem, after colour and kind."""
    rng = np.random.default_rng(7)
    described = [prompts.describe("apple", "red", rng) for _ in range(1000)]
    detailed = [prompt for prompt in described if any(detail in prompt for detail in prompts.DETAILS["apple"])]
    assert 100 < len(detailed) < 220
    assert all("red apple with a" in prompt for prompt in detailed)


def test_some_prompts_are_about_unknown_things():
    """About every eighth prompt has a word that is not a kind, and many of these name the colour; never for smoke."""
    rng = np.random.default_rng(6)
    described = [prompts.describe("apple", "red", rng, ["zebra"]) for _ in range(1000)]
    unknown = [prompt for prompt in described if "zebra" in prompt]
    assert 90 < len(unknown) < 150
    assert not any("apple" in prompt for prompt in unknown)
    assert sum("red" in prompt for prompt in unknown) > 0.4 * len(unknown)
    assert not any("zebra" in prompts.describe("smoke", "red", rng, ["zebra"]) for _ in range(1000))


def test_prompts_name_a_sticker_if_the_sprite_is_one():
    """Only the prompts of a sprite with a white border say "sticker", unless its kind has no stickers."""
    rng = np.random.default_rng(8)
    described = {
        (kind, sticker): [prompts.describe(kind, "red", rng, (), sticker) for _ in range(300)]
        for kind, sticker in (("star", True), ("star", False), ("key", False))
    }
    named = {sprite: sum("sticker" in prompt for prompt in found) for sprite, found in described.items()}
    assert 230 < named["star", True] < 290  # the others are empty or a negative prompt
    assert named["star", False] == 0
    assert named["key", False] > 0


def test_unknown_words_are_not_words_of_the_training():
    """No word of a kind, a colour or a phrasing counts as unknown."""
    assert {"apple", "red", "gray", "toadstool", "sticker", "ugly", "castle"} <= prompts.known_words()
    assert "zebra" not in prompts.known_words()
