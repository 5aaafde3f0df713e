"""Whatever renders or trains asks the prompt guard first: an engine that is asked to sample fails these tests.

The check that cannot be forgotten is in `SampleRequest`; the others come before the work that leads there.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from identity_lock import cli, own_photos
from identity_lock.demo.subjects import SUBJECT_WORD, Subject
from identity_lock.engines.protocol import Conditioning, SampleRequest
from identity_lock.errors import PromptRefused
from identity_lock.identity import build_identity, read_photo
from identity_lock.pipeline import Scene, run_pipeline
from identity_lock.rendering.log import Meters
from identity_lock.rendering.passes import PassSpec, run_pass
from identity_lock.rendering.rescue import rescue_picture
from identity_lock.rendering.search import SearchSpec, search_seeds
from identity_lock.rendering.three_pass import paper_passes, render_three_pass
from identity_lock.rendering.two_pass import TwoPassSpec, render_two_pass
from identity_lock.tests.fixtures.tiny_engine import (
    CONSENT,
    FOUR_PHASES,
    HOPPER,
    PERSON,
    square,
    tiny_engine,
    tiny_plan,
)
from identity_lock.training.augment import JitterSpec
from identity_lock.training.probes import IdentityProbe
from identity_lock.training.session import train_on
from identity_lock.training.training_set import TrainingImage, build_training_set

ROOT = Path(__file__).resolve().parents[2]
FINE = PassSpec("photo of a woman, red background", cfg=1.5, steps=2, sampler="ddim", scheduler="simple")
NAKED = "photo of a naked woman"
SIZE = (64, 64)


class Recording:
    """A real engine that may encode and decode, and fails the test when it is asked to sample or to be trained."""

    def __init__(self) -> None:
        self._engine = tiny_engine()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def sample(self, *_: Any) -> Any:
        pytest.fail("a refused prompt reached Engine.sample")

    def trainable(self) -> Any:
        pytest.fail("a refused prompt reached Engine.trainable")


@pytest.fixture(scope="module")
def recording() -> Any:
    return Recording()


@pytest.fixture(scope="module")
def person() -> Any:
    return build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT)


@pytest.fixture(scope="module")
def looks(person: Any) -> Meters:
    return Meters.of(person)


PICTURE = np.full((64, 64, 3), 90, np.uint8)
Asked = Callable[[Any, Any, Meters, PassSpec, Path], Any]


def a_pass(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return run_pass(engine, spec, 1, SIZE, None)


def a_search(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return search_seeds(engine, None, person, looks, SearchSpec(spec, count=2, control=2), SIZE, folder / "seeds")


def an_anchor(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    passes = replace(paper_passes(FINE.prompt, FINE.prompt), anchor=spec)
    return render_three_pass(engine, None, person, looks, 1, passes, SIZE, anchor=PICTURE)


def a_style(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return render_three_pass(engine, None, person, looks, 1, replace(paper_passes("", ""), style=spec), SIZE)


def a_rescue(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return render_three_pass(engine, None, person, looks, 1, replace(paper_passes("", ""), rescue=spec), SIZE)


def a_two_pass_anchor(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return render_two_pass(engine, engine, None, person, looks, 1, TwoPassSpec(spec, FINE), SIZE)


def a_second_base(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return render_two_pass(engine, engine, None, person, looks, 1, TwoPassSpec(FINE, spec), SIZE, anchor=PICTURE)


def a_healing(engine: Any, person: Any, looks: Meters, spec: PassSpec, folder: Path) -> Any:
    return rescue_picture(PICTURE, PICTURE, person, looks, 1, engine=engine, healing=spec)


EVERY_RENDER = [a_pass, a_search, an_anchor, a_style, a_rescue, a_two_pass_anchor, a_second_base, a_healing]


@pytest.mark.parametrize("render", EVERY_RENDER)
@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": NAKED},
        {"prompt": "a cartoon of a woman"},
        {"prompt": "a child"},
        {"prompt": "woman, <lora:x:1>"},
        {"prompt": "n a k e d"},
        {"prompt": "red hat, " * 2000},
        {"prompt": [NAKED]},
        {"negative": NAKED, "cfg": 0.0},
        {"negative": "blurry, cartoon", "cfg": 0.99},
    ],
    ids=["naked", "cartoon", "child", "tag", "spaced", "too long", "a list", "negative at cfg 0", "negative below 1"],
)  # fmt: skip
def test_no_render_samples_refused_words(
    render: Asked, changes: dict[str, Any], recording: Any, person: Any, looks: Meters, tmp_path: Path
) -> None:
    with pytest.raises(PromptRefused):
        render(recording, person, looks, replace(FINE, **changes), tmp_path)
    assert list(tmp_path.iterdir()) == []  # no journal, no picture


def test_a_request_that_is_refused_cannot_even_be_made(recording: Any) -> None:
    """So a path that forgets the guard cannot render either, nor one that changes a request afterwards."""
    fine = SampleRequest(
        recording.encode_prompt("a woman"), recording.encode_prompt("naked"), (1,), 64, 64, 2, 2.0, "ddim", "simple"
    )
    for changes in (
        {"positive": Conditioning(NAKED, None)},
        {"cfg": 0.5},
        {"cfg": float("nan")},
        {"negative": Conditioning("a child", None), "cfg": 0.0},
    ):
        with pytest.raises(PromptRefused):
            replace(fine, **changes)
    assert replace(fine, cfg=1.0).negative.prompt == "naked"


def test_a_negative_prompt_is_exempt_where_the_picture_moves_away_from_it() -> None:
    picture = run_pass(tiny_engine(), replace(FINE, negative="naked, cartoon, child", cfg=1.0), 1, SIZE, None)
    assert picture.shape == (64, 64, 3)


def test_an_empty_prompt_is_rendered() -> None:
    assert run_pass(tiny_engine(), replace(FINE, prompt=""), 1, SIZE, None).shape == (64, 64, 3)


# ---- training --------------------------------------------------------------------------------------------------------


def training_pictures(caption: str = "") -> list[TrainingImage]:
    ones = np.ones((64, 64), np.float32)
    return [TrainingImage(square(HOPPER, 64), ones, ones, caption)]


@pytest.mark.parametrize(
    ("caption", "probe", "told"),
    [
        (NAKED, {}, "caption"),
        ("a woman", {"prompts": (NAKED,)}, "probe prompt"),
        ("a woman", {"negative": NAKED, "cfg": 0.0}, "negative prompt"),
    ],
)
def test_no_training_starts_with_refused_words(
    caption: str, probe: dict[str, Any], told: str, recording: Any, looks: Meters, tmp_path: Path
) -> None:
    plan = tiny_plan(FOUR_PHASES)
    plan = replace(plan, identity_probe=replace(plan.identity_probe, **probe))
    with pytest.raises(PromptRefused, match=told):
        train_on(
            recording, training_pictures(), [caption], looks.selection, plan, JitterSpec(), lambda _: tmp_path,
            person=PERSON, size=64,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_training_set_and_a_probe_refuse_by_themselves(recording: Any, looks: Meters) -> None:
    with pytest.raises(PromptRefused, match="caption"):
        build_training_set(recording, training_pictures(NAKED), background_weight=0.2)
    probe = IdentityProbe(
        recording, looks.selection, replace(tiny_plan().identity_probe, prompts=(NAKED,)), 64, looks.reporting
    )
    with pytest.raises(PromptRefused):
        probe.check(0)


# ---- the pipeline and the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["caption", "scene", "search", "three_pass", "two_pass", "negative"])
def test_the_pipeline_makes_nothing_of_refused_words(where: str, recording: Any, tmp_path: Path) -> None:
    from identity_lock.demo.settings import demo_spec
    from identity_lock.demo.subjects import grace_hopper

    subject = grace_hopper()
    spec, captions = demo_spec(subject), dict(subject.photos)
    bad = replace(spec.search.render, prompt=NAKED)
    if where == "caption":
        captions = {name: NAKED for name in captions}
    elif where == "scene":
        spec = replace(spec, scenes=(*spec.scenes, Scene("bad", NAKED)))
    elif where == "search":
        spec = replace(spec, search=replace(spec.search, render=bad))
    elif where == "three_pass":
        spec = replace(spec, three_pass=replace(spec.three_pass, anchor=bad))
    elif where == "two_pass":
        spec = replace(spec, two_pass=TwoPassSpec(anchor=bad, style=FINE))
    else:
        rescue = replace(spec.three_pass.rescue, negative=NAKED, cfg=0.5)
        spec = replace(spec, three_pass=replace(spec.three_pass, rescue=rescue))
    with pytest.raises(PromptRefused):
        run_pipeline(
            recording, None, subject.read(), captions, spec, tmp_path / "out", name=subject.name, consent=CONSENT
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["--description", NAKED], ["--scene", "as a cartoon"], ["--caption", "a child"]], ids=lambda a: a[0]
)
def test_the_command_line_refuses_before_it_opens_a_model(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_photos, "_open", lambda *_: pytest.fail("a model was opened"))
    code = cli.main(["run", str(HOPPER), "--consent", CONSENT, "--out", str(tmp_path / "out"), *arguments])
    told = capsys.readouterr()
    assert code != 0 and "refused by the rule" in told.out + told.err
    assert not (tmp_path / "out").exists()


def test_what_the_demo_renders_passes() -> None:
    from identity_lock.demo.settings import demo_spec
    from identity_lock.demo.subjects import grace_hopper, synthetic
    from identity_lock.safety.prompt import check_prompt

    for subject in (grace_hopper(), synthetic()):
        spec = demo_spec(subject)
        texts = [*subject.photos.values(), spec.search.render.prompt, *(scene.prompt for scene in spec.scenes)]
        for text in (*texts, *spec.plan.identity_probe.prompts):
            assert SUBJECT_WORD in text and check_prompt(text).allowed, text
    assert isinstance(subject, Subject)


# ---- no way round ----------------------------------------------------------------------------------------------------

SWITCH = ("guard", "safety", "nsfw", "censor", "moderat", "unsafe", "unfiltered", "bypass", "skip", "uncheck")


def test_no_node_has_an_input_that_turns_the_guard_off() -> None:
    schema = json.loads((ROOT / "tests" / "nodes" / "schema.json").read_text())
    names = {(node, given["name"]) for node, told in schema.items() if told["ours"] for given in told["inputs"]}
    assert len(names) > 50
    assert [name for name in names if any(word in name[1].lower() for word in SWITCH)] == []


def test_no_flag_and_no_parameter_turns_it_off() -> None:
    parser = cli._parser()
    flags = [option for action in _actions(parser) for option in action.option_strings]
    assert "--consent" in flags
    assert [flag for flag in flags if any(word in flag for word in SWITCH)] == []
    for record in (PassSpec, SearchSpec, SampleRequest):
        assert [f.name for f in fields(record) if any(word in f.name for word in SWITCH)] == []


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found: list[argparse.Action] = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += _actions(child)
    return found


GUARD = ("prompt", "ages", "matching", "readings", "rulebook", "syntax")


def test_the_guard_reads_no_environment_and_no_file_but_its_rules() -> None:
    """What it does depends on the text alone: an environment variable or a user's file cannot change it."""
    for name in GUARD:
        source = (ROOT / "safety" / f"{name}.py").read_text(encoding="utf-8")
        named = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        named |= {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        assert not {"environ", "getenv", "argv", "open", "home", "cwd"} & named, name
        assert ("read_text" in named) == (name == "rulebook")


def test_only_requests_reach_the_samplers() -> None:
    """`Engine.sample` takes a SampleRequest and nothing else, so its check stands in front of every sampler."""
    for file in ("comfy.py", "diffusers.py"):
        tree = ast.parse((ROOT / "engines" / file).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "sample"]
        assert functions, file
        for function in functions:
            annotation = function.args.args[1].annotation
            assert annotation is not None and ast.unparse(annotation) == "SampleRequest", file
