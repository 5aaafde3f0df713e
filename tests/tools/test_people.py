"""The renderer of synthetic people: determinism, named attributes in the pixels, captions, adults only."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

MISSING = [name for name in ("anny", "numba") if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(f"synthetic people need: pip install {' '.join(MISSING)}", allow_module_level=True)

from tools.people import VOCABULARY, Person, View, caption, caption_phrases, render  # noqa: E402
from tools.people.dataset import DatasetPlan, make_dataset  # noqa: E402
from tools.people.hair import STYLES  # noqa: E402
from tools.people.palette import COLOURS, name_colour  # noqa: E402
from tools.people.view import SCENES  # noqa: E402

PLAIN = {
    "scene": "studio",
    "light_tone": "neutral",
    "brightness": "normal",
    "light_side": "front",
    "yaw": 0.0,
    "pitch": 0.0,
    "roll": 0.0,
    "expression": "neutral",
    "blur": 0.0,
    "noise": 0.0,
    "dx": 0.0,
}


@pytest.fixture(scope="module")
def woman() -> Person:
    return Person.sample(4).with_hair(style="short")


@pytest.fixture(scope="module")
def man() -> Person:
    return Person.sample(7).with_hair(style="short")


def plain_view(seed: int = 1, **changes: object) -> View:
    return View.sample(seed, **{**PLAIN, **changes})


def face_halves(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the left and of the right half of the face, as seen in a square picture."""
    size = len(picture)
    rows = slice(int(0.30 * size), int(0.50 * size))
    return picture[rows, int(0.36 * size) : size // 2], picture[rows, size // 2 : int(0.64 * size)]


def test_same_seeds_give_the_same_pixels() -> None:
    first = render(Person.sample(3), View.sample(11), 64)
    again = render(Person.sample(3), View.sample(11), 64)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)


def test_other_seeds_give_other_pictures(woman: Person) -> None:
    assert not np.array_equal(render(woman, View.sample(1), 64), render(woman, View.sample(2), 64))
    assert not np.array_equal(woman.shape, Person.sample(5).shape)


@pytest.mark.parametrize("colour", COLOURS)
def test_backdrop_has_the_named_colour_under_any_light(woman: Person, colour: str) -> None:
    for seed, tone in enumerate(("neutral", "warm", "cool")):
        picture = render(woman, plain_view(seed, background=colour, light_tone=tone), 64) / 255
        edges = np.concatenate([picture[4:26, 2:10].reshape(-1, 3), picture[4:26, 54:62].reshape(-1, 3)])
        assert name_colour(np.median(edges, axis=0)) == colour


@pytest.mark.parametrize("colour", COLOURS)
def test_shirt_has_the_named_colour(man: Person, colour: str) -> None:
    background = "gray" if colour != "gray" else "blue"
    picture = render(man, plain_view(3, shirt=colour, background=background), 64) / 255
    shirt = picture[-4:, 20:44].reshape(-1, 3)
    assert name_colour(np.median(shirt, axis=0)) == colour


@pytest.mark.parametrize("look", ["studio", "film"])
def test_light_falls_on_the_named_side_of_the_image(man: Person, look: str) -> None:
    from_left = face_halves(render(man, plain_view(light_side="left"), 64, look))
    from_right = face_halves(render(man, plain_view(light_side="right"), 64, look))
    assert from_left[0].mean() > 1.15 * from_left[1].mean()
    assert from_right[1].mean() > 1.15 * from_right[0].mean()


def test_tone_and_brightness_show_on_the_face(woman: Person) -> None:
    def face(**changes: object) -> np.ndarray:
        return np.concatenate(face_halves(render(woman, plain_view(**changes), 64)), 1).reshape(-1, 3).mean(0)

    red_to_blue = [rgb[0] / rgb[2] for rgb in (face(light_tone=tone) for tone in ("warm", "neutral", "cool"))]
    assert red_to_blue[0] > 1.2 * red_to_blue[1] and red_to_blue[1] > 1.08 * red_to_blue[2]
    brightness = [face(brightness=name).mean() for name in ("bright", "normal", "dim")]
    assert brightness[0] > 1.1 * brightness[1] and brightness[1] > 1.2 * brightness[2]


def test_yaw_turns_the_head_to_that_side_of_the_image(man: Person) -> None:
    """The nose, seen against a white backdrop, moves the silhouette of a turned head."""

    def face_x(yaw: float) -> float:
        posed = pose_figure(man, plain_view(yaw=yaw)).points
        return float(posed[np.argmax(figure_mesh().template[:, 2]), 0])

    from tools.people.mesh import figure_mesh
    from tools.people.render import pose_figure

    assert face_x(30) > face_x(0) + 0.3 > face_x(-30) + 0.6
    assert "looking right" in caption_phrases(man, plain_view(yaw=30.0))
    assert "looking left" in caption_phrases(man, plain_view(yaw=-30.0))


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_differs_and_renders_in_both_looks(woman: Person, scene: str) -> None:
    view = View.sample(5, scene=scene)
    studio, film = render(woman, view, 64), render(woman, view, 64, "film")
    assert np.abs(studio.astype(int) - film).mean() > 5
    assert studio.std() > 15


def test_captions_stay_inside_the_vocabulary() -> None:
    for seed in range(300):
        person, view = Person.sample(seed), View.sample(seed)
        text = caption(person, view)
        assert text.split(", ") == caption_phrases(person, view)
        assert set(text.replace(",", "").split()) <= set(VOCABULARY)


def test_a_caption_reads_as_agreed() -> None:
    person = replace(Person.sample(0), sex="woman", age_group="young").with_hair("long", "brown")
    view = plain_view(light_tone="warm", light_side="left", expression="smiling", background="green", shirt="red")
    assert caption(person, replace(view, yaw=10.0)) == (
        "photo of a person, woman, young, long brown hair, smiling, warm light, light from left, "
        "green background, red shirt"
    )


def test_only_adults_evenly_spread() -> None:
    people = [Person.sample(seed) for seed in range(240)]
    assert min(person.age_years for person in people) >= 25
    assert Counter(person.sex for person in people) == {"woman": 120, "man": 120}
    assert min(Counter(person.age_group for person in people).values()) > 60
    assert min(Counter(person.hair.colour_name for person in people).values()) > 12
    assert {person.hair.style for person in people} == set(STYLES)
    assert 30 < sum(person.bearded for person in people) < 80


def test_new_hair_keeps_the_face(woman: Person) -> None:
    dyed = woman.with_hair(style="long", colour="red")
    assert (dyed.hair.style, dyed.hair.colour_name) == ("long", "red")
    assert woman.hair.style == "short"
    assert np.array_equal(dyed.shape, woman.shape)
    with pytest.raises(ValueError, match="hair style"):
        woman.with_hair(style="mohawk")


def test_unknown_names_are_refused(woman: Person) -> None:
    with pytest.raises(TypeError, match="View has no zoom"):
        View.sample(1, zoom=2)
    with pytest.raises(ValueError, match="light_side is one of"):
        View.sample(1, light_side="top")
    with pytest.raises(ValueError, match="look is one of"):
        render(woman, View.sample(1), 32, "oil")


def test_dataset_resumes_and_refuses_another_plan(tmp_path) -> None:
    plan = DatasetPlan(people=2, views=1, first_seed=8, size=32, look="studio")
    make_dataset(tmp_path, plan, workers=1)
    images = np.load(tmp_path / "images.npy")
    assert images.shape == (2, 32, 32, 3) and images.std() > 15
    assert np.load(tmp_path / "people.npy").tolist() == [8, 9]

    done = np.load(tmp_path / "done.npy")
    done[1] = 0
    np.save(tmp_path / "done.npy", done)
    np.save(tmp_path / "images.npy", images * np.array([1, 0], np.uint8)[:, None, None, None])
    make_dataset(tmp_path, plan, workers=1)
    assert np.array_equal(np.load(tmp_path / "images.npy"), images)
    with pytest.raises(SystemExit, match="another dataset"):
        make_dataset(tmp_path, replace(plan, look="film"), workers=1)
