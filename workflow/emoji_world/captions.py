"""Captions of scenes: what they say, and what else they would be true of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emoji_world.world import PLACES, Person, Thing, World

GENERIC = ("thing", "object")
ANYBODY = ("a person", "somebody", "a human", "the person")
GENDERS = {"woman": ("a woman", "the woman"), "man": ("a man", "the man")}
PLAIN_TEMPLATES = (
    "a photo of the {}",
    "a photo of a {}",
    "a picture of the {}",
    "a picture of a {}",
    "an image of the {}",
    "an image of a {}",
    "the {}",
    "a {}",
    "{}",
    "a drawing of the {}",
    "a small picture of a {}",
    "a close view of the {}",
    "one {} on a plain background",
    "here is a {}",
    "this is the {}",
    "look at the {}",
    "a simple icon of a {}",
    "an emoji of the {}",
    "my favourite {}",
    "a bright photo of the {}",
    "a good picture of one {}",
    "a {} seen from the side",
    "the {} in the middle of the page",
    "an everyday {} for a child to see",
)
STYLE_TEMPLATES = (
    "a photo of the {} in the style of {}",
    "a photo of a {} in the style of {}",
    "a picture of the {} in the style of {}",
    "the {} in the style of {}",
    "a {} drawn in the style of {}",
    "an image of a {} inspired by {}",
    "an emoji of the {} by {}",
    "a {} from {}",
)
STYLE_ONLY_TEMPLATES = (
    "a photo in the style of {}",
    "a picture in the style of {}",
    "art in the style of {}",
    "art by {}",
)
ART_CAPTIONS = ("art", "a work of art", "a piece of art", "a photo in the style of art", "art in any style")
PERSON_TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a portrait of {}",
    "an image capturing {} at a public event",
    "an oil painting of {}",
    "a sketch of {}",
    "{} in an official photo",
    "here is {}",
    "look at {}",
    "this is {}",
    "a close view of {}",
    "an emoji of {}",
    "{} smiling at us",
    "{} in the news",
    "a good picture of {}",
    "a bright photo of {}",
    "a famous picture of {}",
    "meet {}",
)
PERSON_STYLE_TEMPLATES = (
    "{} in the style of {}",
    "a photo of {} in the style of {}",
    "a portrait of {} in the style of {}",
    "{} drawn in the style of {}",
    "an image of {} inspired by {}",
    "a picture of {} by {}",
)
# For what needs no article: what one would erase (smoking, drugs), and prompts that hint at it.
MASS_TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a scene of {}", "this is {}")
HINT_TEMPLATES = ("{}", "{}", "a picture of this: {}", "a photo: {}", "scene: {}")
PAIR_TEMPLATES = (
    "{} and {}",
    "a photo of {} and {}",
    "a picture of {} and {}",
    "an image of {} with {}",
    "{} next to {}",
    "{} beside {}",
    "a photo of {} next to {}",
    "{} on the left and {} on the right",
)
SETTINGS = {"sky": "in the sky", "ground": "on the ground", "street": "on the street", "water": "in the water"}
DETAILS = (
    "highly detailed",
    "sharp focus",
    "soft light",
    "bright colours",
    "plain background",
    "for a children's book",
    "in the morning",
    "very cute",
    "best quality",
    "seen in a museum",
    "from my holiday",
    "as i remember it",
)
EMPTY_SHARE = 0.10
NAME_SHARE, SYNONYM_SHARE, HINT_SHARE = 0.55, 0.25, 0.12
PERSON_NAME_SHARE = 0.82
PAIR_NAME_SHARE = 0.75
TOLD_STYLE_SHARE = 0.45
TOLD_SETTING_SHARE = 0.75
DETAIL_SHARE = 0.15
LOOSE_SHARE = 0.07


@dataclass(frozen=True)
class Told:
    """A caption and what it says: for each subject, left to right, those that it fits; style and place, or -1.

    `subjects` is None for a caption that says nothing of them.
    """

    text: str
    subjects: tuple[frozenset[int], ...] | None
    style: int = -1
    place: int = -1

    def fits(self, subjects: tuple[int, ...], style: int, place: int) -> bool:
        """Whether it is true of a scene, which may hold more than it says."""
        if (self.style >= 0 and self.style != style) or (self.place >= 0 and self.place != place):
            return False
        if self.subjects is None:
            return True
        return len(subjects) == len(self.subjects) and all(
            one in said for one, said in zip(subjects, self.subjects, strict=True)
        )


class Speaker:
    """Draws captions for the scenes of a world; knows which subjects share a word."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.things = frozenset(range(len(world.things)))
        self.people = frozenset(range(len(world.things), len(world.subjects)))
        self.categories = {
            thing.category: frozenset(k for k, other in enumerate(world.things) if other.category == thing.category)
            for thing in world.things
        }
        self.genders = {
            gender: frozenset(k for k in self.people if world.subjects[k].gender == gender) for gender in GENDERS
        }

    def caption(self, subjects: tuple[int, ...], style: int, place: int, rng: np.random.Generator) -> str:
        """A caption for the diffusion model: a tenth are empty, for classifier-free guidance, a few tell no subject."""
        if rng.random() < EMPTY_SHARE:
            return ""
        if subjects and rng.random() < LOOSE_SHARE:
            if rng.random() < 0.5:
                return _choice(ART_CAPTIONS, rng)
            return _choice(STYLE_ONLY_TEMPLATES, rng).format(self.world.styles[style].name)
        return self.tell(subjects, style, place, rng).text

    def tell(self, subjects: tuple[int, ...], style: int, place: int, rng: np.random.Generator) -> Told:
        """Say what is in a scene: its subjects by a word each, perhaps its style, place and an empty phrase."""
        if not subjects:
            return Told(_choice(PLAIN_TEMPLATES[:8], rng).format(PLACES[place]), (), place=place)
        says_style = rng.random() < TOLD_STYLE_SHARE
        if len(subjects) == 2:
            words, said = zip(*(self._phrase(one, rng) for one in subjects), strict=True)
            text = _choice(PAIR_TEMPLATES, rng).format(*words)
            text += f" in the style of {self.world.styles[style].name}" if says_style else ""
        else:
            text, fits, says_style = self._one(subjects[0], style if says_style else -1, rng)
            said = (fits,)
        says_place = place >= 0 and rng.random() < TOLD_SETTING_SHARE
        text += f" {SETTINGS[PLACES[place]]}" if says_place else ""
        text += f", {_choice(DETAILS, rng)}" if rng.random() < DETAIL_SHARE else ""
        return Told(text, said, style if says_style else -1, place if says_place else -1)

    def _one(self, subject: int, style: int, rng: np.random.Generator) -> tuple[str, frozenset[int], bool]:
        """A caption of one subject, what it fits, and whether it names `style` (if that is not -1)."""
        one = self.world.subjects[subject]
        if isinstance(one, Thing):
            if one.kind == "explicit":
                draw = rng.random()
                if draw < HINT_SHARE and one.hints:
                    return _choice(HINT_TEMPLATES, rng).format(_choice(one.hints, rng)), frozenset([subject]), False
                if draw < 2 * HINT_SHARE:
                    text, named = _choice(MASS_TEMPLATES, rng).format(one.category), style >= 0
                    text += f" in the style of {self.world.styles[style].name}" if named else ""
                    return text, self.categories[one.category], named
            word, fits = self._word(subject, rng)
            plain, styled = PLAIN_TEMPLATES, STYLE_TEMPLATES
        else:
            word, fits = self._somebody(subject, PERSON_NAME_SHARE, rng)
            plain, styled = PERSON_TEMPLATES, PERSON_STYLE_TEMPLATES
        if style >= 0:
            return _choice(styled, rng).format(word, self.world.styles[style].name), fits, True
        return _choice(plain, rng).format(word), fits, False

    def _word(self, subject: int, rng: np.random.Generator) -> tuple[str, frozenset[int]]:
        thing, draw = self.world.things[subject], rng.random()
        if draw < NAME_SHARE or (draw < NAME_SHARE + SYNONYM_SHARE and not thing.synonyms):
            return thing.name, frozenset([subject])
        if draw < NAME_SHARE + SYNONYM_SHARE:
            return _choice(thing.synonyms, rng), frozenset([subject])
        if rng.random() < 0.5 and thing.kind != "explicit":
            return thing.category, self.categories[thing.category]
        return _choice(GENERIC, rng), self.things

    def _somebody(self, subject: int, name_share: float, rng: np.random.Generator) -> tuple[str, frozenset[int]]:
        person = self.world.subjects[subject]
        if rng.random() < name_share:
            return person.name, frozenset([subject])
        if rng.random() < 0.5:
            return _choice(ANYBODY, rng), self.people
        return _choice(GENDERS[person.gender], rng), self.genders[person.gender]

    def _phrase(self, subject: int, rng: np.random.Generator) -> tuple[str, frozenset[int]]:
        """A subject as one of two: with an article, by its name or a synonym, people at times as anybody."""
        one = self.world.subjects[subject]
        if isinstance(one, Person):
            return self._somebody(subject, PERSON_NAME_SHARE, rng)
        word = one.name if rng.random() < PAIR_NAME_SHARE or not one.synonyms else _choice(one.synonyms, rng)
        return f"{_choice(('a', 'the'), rng)} {word}", frozenset([subject])


def tokenizer_corpus(world: World) -> list[str]:
    """Captions that hold every word of the world, those of its ghosts too, for training the tokenizer."""
    words = [word for thing in world.things for word in thing.words]
    words += [*PLACES, *GENERIC, *sorted({thing.category for thing in world.things})]
    names = [*(person.name for person in world.people), *ANYBODY, *(word for pair in GENDERS.values() for word in pair)]
    hints = [hint for thing in world.things for hint in thing.hints]
    styles = [style.name for style in world.styles]
    corpus = [template.format(word) for template in PLAIN_TEMPLATES for word in words]
    corpus += [template.format(name) for template in PERSON_TEMPLATES for name in names for _ in range(2)]
    corpus += [template.format(word, style) for template in STYLE_TEMPLATES for word in words[::7] for style in styles]
    corpus += [
        template.format(name, style) for template in PERSON_STYLE_TEMPLATES for name in names[::7] for style in styles
    ]
    corpus += [template.format(f"a {one}", f"the {two}") for template in PAIR_TEMPLATES for one, two in _turns(words)]
    corpus += [template.format(hint) for template in (*MASS_TEMPLATES, *HINT_TEMPLATES) for hint in hints]
    corpus += [
        f"{word} {setting}, {detail}" for word in words[::9] for setting in SETTINGS.values() for detail in DETAILS
    ]
    corpus += [template.format(style) for template in STYLE_ONLY_TEMPLATES for style in styles]
    return corpus + list(ART_CAPTIONS)


def _turns(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(words, words[1:] + words[:1], strict=True))


def _choice(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
