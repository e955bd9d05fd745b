"""Prompts for a sprite: several phrasings, in English and a little Japanese, often with irrelevant words."""

from collections.abc import Sequence

import numpy as np

from training import sprites

SYNONYMS = {
    "mug": ("cup",),
    "mushroom": ("toadstool",),
    "glass ball": ("glass sphere", "ball of glass"),
    "smoke": ("wisp of smoke", "puff of smoke"),
    "flame": ("fire",),
    "moon": ("crescent moon",),
    "house": ("cottage",),
    "tree": ("fir tree",),
    "boat": ("sailing boat", "ship"),
    "leaf": ("tree leaf",),
    "soap bubble": ("bubble",),
    "lace": ("lace doily", "doily"),
    "hair": ("lock of hair", "wig"),
    "grey": ("gray",),
    "teal": ("turquoise",),
    "purple": ("violet",),
}
UNCOUNTED = ("smoke", "wisp of smoke", "puff of smoke", "fire", "lace", "hair")
JAPANESE = dict(
    zip(
        [*sprites.KINDS, *sprites.COLOURS],
        [
            "りんご",
            "星",
            "葉",
            "ハート",
            "マグカップ",
            "魚",
            "鍵",
            "きのこ",
            "指輪",
            "ガラス玉",
            "羽",
            "雲",
            "煙",
            "炎",
            "月",
            "花",
            "家",
            "木",
            "傘",
            "おばけ",
            "風船",
            "王冠",
            "船",
            "鐘",
            "シャボン玉",
            "レース",
            "髪",
            "赤",
            "オレンジ",
            "黄色",
            "緑",
            "青緑",
            "青",
            "紫",
            "ピンク",
            "茶色",
            "黒",
            "灰色",
            "白",
        ],
        strict=True,
    )
)
DETAILS = {  # parts whose colour is always the same
    "apple": ("with a green leaf", "with a brown stem"),
    "mushroom": ("with white dots", "with white spots"),
    "flower": ("with a yellow centre",),
    "tree": ("with a brown trunk",),
    "umbrella": ("with a brown handle",),
    "boat": ("with white sails",),
    "ghost": ("with black eyes",),
    "balloon": ("on a black string", "with a black string"),
}
PATTERNS = (
    "{thing}",
    "a picture of {thing}",
    "an icon of {thing}",
    "a drawing of {thing}",
    "{thing}, game asset",
    "{thing}, sticker",
    "one single {bare}",
    "the {bare}",
    "{bare}",
    "{kind}, {colour}",
    "{colour} coloured {kind}",
    "{article} {kind} that is {colour}",
)
ADDITIONS = (
    "best quality",
    "highly detailed",
    "soft light",
    "centered",
    "simple",
    "4k",
    "cute",
    "clean edges",
    "studio light",
    "very beautiful",
    "transparent background",
    "isolated",
    "masterpiece, sharp focus",
    "on a table",
    "in the morning sun",
    "for a children's book",
    "drawn by hand, très joli",
    "made with love and care by somebody who had all the time in the world",
)
WORDS = [
    "old",
    "new",
    "small",
    "big",
    "shiny",
    "fresh",
    "lovely",
    "wild",
    "quiet",
    "bright",
    "little",
    "fine",
    "fancy",
    "great",
    "happy",
    "round",
    "smooth",
    "rough",
    "tiny",
    "strange",
    "the",
    "with",
    "and",
    "of",
    "under",
    "over",
    "near",
    "from",
    "for",
    "some",
    "any",
    "every",
    "other",
    "style",
    "art",
    "photo",
    "render",
    "vector",
    "digital",
    "paper",
    "oil",
    "morning",
    "evening",
    "summer",
    "winter",
    "river",
    "mountain",
    "garden",
    "window",
    "music",
    "story",
    "ocean",
    "street",
    "castle",
    "market",
    "forest",
]
NEGATIVE = ("bad, ugly", "ugly, bad", "bad", "blurry", "low quality", "bad, ugly, blurry", "worst quality, deformed")
EMPTY_SHARE = 0.06
NEGATIVE_SHARE = 0.08
ONLY_COLOUR_SHARE = 0.04
ONLY_KIND_SHARE = 0.06
JAPANESE_SHARE = 0.06
DETAIL_SHARE = 0.2
UNKNOWN_SHARE = 0.12
STICKER_PATTERNS = (
    "{thing}, sticker",
    "{thing} sticker",
    "a sticker of {thing}",
    "{bare} sticker, white border",
    "die-cut sticker of {thing}, no shadow",
)
UNKNOWN_PATTERNS = ("{}", "a {}", "the {} {}", "a {} on a {}", "two {} with a {}", "a picture of a {} and a {}")


def describe(
    kind: str, colour: str, rng: np.random.Generator, unknown: Sequence[str] = (), sticker: bool = False
) -> str:
    """Returns a prompt for the sprite. Some name only its kind or only its colour, some neither.

    Guidance leads away from the prompts that name neither: "" and the usual negative prompts. Others name an
    unknown thing, often in the sprite's colour, so that prompts about other things also lead to a sprite, though
    never to a soft one: a bear is expected to be solid.

    Args:
        kind: a key of sprites.KINDS.
        colour: a key of sprites.COLOURS.
        rng: chooses the phrasing.
        unknown: words for unknown things.
        sticker: whether the sprite has a white border.
    """
    draw = rng.random()
    if draw < EMPTY_SHARE + NEGATIVE_SHARE:
        return "" if draw < EMPTY_SHARE else _one_of(NEGATIVE, rng)
    if sticker:
        phrase = _phrase(kind, colour, rng, STICKER_PATTERNS)
    elif unknown and kind not in sprites.SOFT and rng.random() < UNKNOWN_SHARE:
        phrase = _unknown(colour, rng, unknown)
    else:
        return _usual(kind, colour, rng)
    return _decorated(phrase, rng)


def plain(kind: str, colour: str, rng: np.random.Generator) -> str:
    """Returns a prompt that names kind and colour in one of the phrasings."""
    return _phrase(kind, colour, rng, PATTERNS)


def _usual(kind: str, colour: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < ONLY_COLOUR_SHARE:
        return _one_of(("{c}", "something {c}", "a {c} thing", "{c} colour"), rng).format(c=_word(colour, rng))
    if draw < ONLY_COLOUR_SHARE + ONLY_KIND_SHARE:
        return _decorated(_with_article(_word(kind, rng)), rng)
    if rng.random() < JAPANESE_SHARE:
        return _one_of(("{}の{}", "{}い{}", "{}の{}、きれい"), rng).format(JAPANESE[colour], JAPANESE[kind])
    if kind in DETAILS and rng.random() < DETAIL_SHARE:
        return _decorated(_detailed(kind, colour, rng), rng)
    patterns = [pattern for pattern in PATTERNS if "sticker" not in pattern or kind not in sprites.STICKERS]
    return _decorated(_phrase(kind, colour, rng, patterns), rng)


def _phrase(kind: str, colour: str, rng: np.random.Generator, patterns: Sequence[str]) -> str:
    kind, colour = _word(kind, rng), _word(colour, rng)
    bare = f"{colour} {kind}"
    thing = bare if kind in UNCOUNTED else _with_article(bare)
    article = "some" if kind in UNCOUNTED else _with_article(kind).split()[0]
    return _one_of(patterns, rng).format(thing=thing, bare=bare, kind=kind, colour=colour, article=article)


def known_words() -> set[str]:
    """Returns the words of all prompts that name a kind or a colour."""
    phrases = [phrase for some in (*SYNONYMS.values(), *DETAILS.values()) for phrase in some]
    names = [*sprites.KINDS, *sprites.COLOURS, *phrases]
    others = [*PATTERNS, *STICKER_PATTERNS, *ADDITIONS, *WORDS, *NEGATIVE, "something thing"]
    return set(" ".join([*names, *others]).replace(",", "").split())


def _detailed(kind: str, colour: str, rng: np.random.Generator) -> str:
    return f"{_with_article(_word(colour, rng))} {_word(kind, rng)} {_one_of(DETAILS[kind], rng)}"


def _unknown(colour: str, rng: np.random.Generator, words: Sequence[str]) -> str:
    if rng.random() < 0.6:
        return plain(_one_of(words, rng), colour, rng)
    pattern = _one_of(UNKNOWN_PATTERNS, rng)
    return pattern.format(*(_one_of(words, rng) for _ in range(pattern.count("{}"))))


def _decorated(prompt: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.45:
        return prompt
    if draw < 0.75:
        additions = rng.permutation(ADDITIONS)[: rng.integers(1, 4)]
        return ", ".join([prompt, *additions] if rng.random() < 0.8 else [*additions, prompt])
    words = " ".join(rng.choice(WORDS, size=rng.integers(1, 12)))
    if draw < 0.85:
        return f"{words} {prompt}"
    return f"{prompt} {words}" if draw < 0.95 else f"{words}, {prompt}, {' '.join(rng.choice(WORDS, size=30))}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _word(name: str, rng: np.random.Generator) -> str:
    return _one_of((name, *SYNONYMS[name]), rng) if name in SYNONYMS and rng.random() < 0.4 else name


def _one_of(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
