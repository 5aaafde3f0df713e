"""Writes workflows/*.json (for the browser) and workflows/api/*.json (for the HTTP API). Each graph is told once, here.

`python -m tools.workflows`; the same bytes every time. Numbers and prompts are the demo's (demo/settings.py), so that
the graphs run as they are on a machine without a checkpoint; notes inside say what to change for one's own.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from identity_lock.demo.settings import SEED, SIZE, demo_spec
from identity_lock.demo.subjects import synthetic
from identity_lock.rendering.passes import PassSpec

from .graph_file import Graph, Node, Output, Schema, api_text, ui_text

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "workflows"
SCHEMA = ROOT / "tests" / "nodes" / "schema.json"

SUBJECT = synthetic()
SPEC = demo_spec(SUBJECT)
SCENES = {scene.name: scene.prompt for scene in SPEC.scenes}
CAPTIONS = "\n".join(SUBJECT.photos.values())
SAMPLES = ("identity_lock_sample_1.png", "identity_lock_sample_2.png")
PERSON = "demo_person"

# Width and height on the canvas: the widgets, and below them the picture, chart or table that a node shows.
SIZES = {
    "LoadImage": (270, 350),
    "FacePrep": (340, 620),
    "IdentityEmbed": (340, 510),
    "SaveIdentity": (340, 350),
    "DemoModelLoader": (340, 160),
    "PhasedLoRATrainer": (420, 980),
    "DriftSeedSearch": (440, 1100),
    "ThreePassRender": (420, 1220),
    "TwoPassStylize": (420, 1200),
    "RescueBlend": (420, 960),
    "DriftScore": (340, 380),
    "PreviewImage": (340, 360),
    "SaveImage": (340, 360),
    "PreviewAny": (340, 240),
    "ImageBatch": (240, 100),
    "ImageInvert": (240, 60),
    "ImageScale": (240, 190),
}

DRIFT = f"Drift is 1 - similarity of the faces: lower is closer, {SPEC.three_pass.threshold:g} and below is *locked*."
OWN_PERSON = "The photos, and the consent statement in **Identity**."
OWN_CAPTIONS = "**Trainer**: one caption line for each photo, and the *lora_name*."
OWN_SEED = "Have a seed already? Remove the wire into *seed* and type it there."

CONSENT_NOTE = """
    ### Whose face?

    Only of a person who agreed. Before your first run with other photos, write into **Identity** who agreed, to what,
    and when: the statement is kept in every record made from it. The person in the sample photos is synthetic.

    One to three photos, one face in each."""
OTHER_NAMES = " With other photos change the *name* and the *lora_name* too."

CHECKPOINT_NOTE = """
    ### Your own checkpoint

    The demo base is tiny: 128 px, about 70 words. For real pictures put **Load Checkpoint** in its place, wire MODEL,
    CLIP and VAE to the same inputs, and set:
    """
TRAINER_LINE = "- Trainer: plan *paper*, resolution *0* (the model's own)"
SEARCH_LINE = """
    - Search: the checkpoint's width and height, steps *24*, cfg *5.8*, sampler *dpmpp_2m*, scheduler *karras*;
      advanced: batch *4*, control *8*, rungs *0.25:0.30, 0.50:0.40*, min_correlation *0.4*"""
THREE_PASS_LINE = """
    - Render: the same width, height, steps, sampler and scheduler; anchor, style and rescue cfg *5.8*, *6.3*, *6.8*;
      style_face_denoise *0.55*"""
TWO_PASS_LINE = """
    - Render: the same width, height, steps, sampler and scheduler; anchor and style cfg *5.8*, *6.3*; style_denoise
      *0.55*, style_face_denoise *0.30*
    - Style base: any checkpoint, of another architecture even; *style_width* and *style_height* are its own size"""
PROMPT_LINE = "- Prompts: plain sentences; keep *sks person*, as in the captions"

LORA_PLACE = f"- The LoRA: *models/loras/{PERSON}.safetensors*; *Load LoRA* takes it too"
TRAINING_PLACE = "- Training curves, and the checkpoint to resume from: *output/identity_lock/training/*"
SEARCH_PLACE = "- Every seed's picture and drift: *output/identity_lock/seeds/*"
RENDER_PLACE = "- Finished pictures, and a line for each in *renders.jsonl*: *output/identity_lock/renders/*"
IDENTITY_PLACE = "- The identity, to load again with *Load Identity*: *models/identities/*"
BATCH_PLACE = "- Accepted and rejected pictures: *output/identity_lock/*"
FIRST_RUN = """
    The first run trains for some minutes. Training and search are kept: later runs, and the other bundled graphs, find
    them finished as long as photos and settings are the same. A run that you stop goes on where it was."""


# ---- parts that several graphs share


@dataclass
class Person:
    """What comes before any training: notes, photos, prepared faces, identity."""

    about: Node
    consent: Node
    photos: list[Node]
    faces: Node
    identity: Node

    def columns(self, results: Node, base: Node, own: Node) -> list[list[Node]]:
        """The graph's left part, of notes and of what goes into a training."""
        return [[self.about, self.consent, results], self.photos, [self.faces], [base, self.identity, own]]


def open_person(graph: Graph, about: str, *, lora: bool = True, about_size: tuple[int, int] = (360, 370)) -> Person:
    note = graph.note("About this graph", about, about_size)
    consent = graph.note("Consent", CONSENT_NOTE + OTHER_NAMES * lora, (360, 250))
    loaded = [load_photo(graph, number) for number in (1, 2)]
    faces = graph.add(
        "FacePrep",
        "Faces",
        **{f"photo_{number}": photo["IMAGE"] for number, photo in enumerate(loaded, start=1)},
        background="none",
        padding=SPEC.prep.padding,
        size=SPEC.prep.size,
    )
    identity = embed(graph, faces)
    graph.groups["Photos"] = [*loaded, faces]
    graph.groups["Identity"] = [identity]
    return Person(note, consent, loaded, faces, identity)


def load_photo(graph: Graph, number: int, what: str = "") -> Node:
    title, what = f"Photo {number}", what or f"the {('first', 'second')[number - 1]} photo"
    graph.placeholders[title, "image"] = f"{{{{photo_{number}: {what}, a file}}}}"
    return graph.add("LoadImage", title, image=SAMPLES[number - 1])


def embed(graph: Graph, faces: Node) -> Node:
    graph.placeholders["Identity", "consent"] = "{{consent: who agreed to the use of these photos, to what, and when}}"
    return graph.add("IdentityEmbed", "Identity", references=faces["references"], name=PERSON, consent=SUBJECT.consent)


def base_model(graph: Graph, title: str = "Base model", look: str = "studio") -> Node:
    node = graph.add("DemoModelLoader", title, look=look)
    graph.groups.setdefault("Model", []).append(node)
    return node


def checkpoint_note(graph: Graph, *lines: str) -> Node:
    told = "\n".join(inspect.cleandoc(line) for line in (CHECKPOINT_NOTE, *lines, PROMPT_LINE))
    return graph.note("Your own checkpoint", told, (340, 230 + 110 * len(lines)))


def results_note(graph: Graph, *lines: str, after: str = FIRST_RUN) -> Node:
    told = "\n".join(("### Where results land", "", *lines, "", inspect.cleandoc(after)))
    return graph.note("Where results land", told.rstrip(), (360, (240 if after else 110) + 56 * len(lines)))


def wires(base: Node, prefix: str = "") -> dict[str, Output]:
    return {prefix + name: base[name] for name in ("model", "clip", "vae")}


def train(graph: Graph, person: Person, base: Node) -> Node:
    """The same in every graph, so that one training serves them all."""
    probe = SPEC.plan.identity_probe
    assert probe is not None  # the demo has one
    trainer = graph.add(
        "PhasedLoRATrainer",
        "Trainer",
        **wires(base),
        training_images=person.faces["training_images"],
        face_masks=person.faces["face_masks"],
        valid_masks=person.faces["valid_masks"],
        identity=person.identity["identity"],
        caption=CAPTIONS,
        lora_name=PERSON,
        plan="demo base",
        probe_prompts="\n".join(probe.prompts),
        seed=SEED,
    )
    graph.groups["Training"] = [trainer]
    return trainer


def sampling(spec: PassSpec) -> dict[str, Any]:
    return {"width": SIZE, "height": SIZE, "steps": spec.steps, "sampler": spec.sampler, "scheduler": spec.scheduler}


def search_seeds(graph: Graph, person: Person, base: Node, trainer: Node) -> Node:
    """The same in every graph: the seeds are measured once."""
    search = SPEC.search
    node = graph.add(
        "DriftSeedSearch",
        "Search",
        **wires(base),
        identity=person.identity["identity"],
        lora=trainer["lora"],
        prompt=search.render.prompt,
        **sampling(search.render),
        cfg=search.render.cfg,
        strength=search.render.strength,
        first_seed=SEED,
        count=search.control,
        batch=search.batch,
        control=search.control,
        rungs=", ".join(f"{rung.at:g}:{rung.keep:.2f}" for rung in search.rungs),
        min_correlation=search.min_correlation,
    )
    graph.groups["Seed"] = [node]
    return node


def render_three(
    graph: Graph, person: Person, base: Node, trainer: Node, seed: Node, scene: str, title: str = "Render", **more: Any
) -> Node:
    passes = SPEC.three_pass
    return graph.add(
        "ThreePassRender",
        title,
        **wires(base),
        identity=person.identity["identity"],
        lora=trainer["lora"],
        seed=seed["seed"],
        anchor_prompt=passes.anchor.prompt,
        scene_prompt=SCENES[scene],
        **sampling(passes.anchor),
        anchor_strength=passes.anchor.strength,
        anchor_cfg=passes.anchor.cfg,
        style_strength=passes.style.strength,
        style_cfg=passes.style.cfg,
        style_denoise=passes.style.denoise,
        style_face_denoise=passes.style.face_denoise,
        rescue_strength=passes.rescue.strength,
        rescue_cfg=passes.rescue.cfg,
        rescue_denoise=passes.rescue.denoise,
        blend=passes.blend,
        **more,
    )


# ---- the graphs


def full_pipeline(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## Full pipeline

        Two photos become an identity and a LoRA, a search finds the seed that keeps the face best, and three passes
        render a new scene with that seed. {DRIFT}

        **Change first**
        1. {OWN_PERSON}
        2. {OWN_CAPTIONS}
        3. **Render**: the *scene_prompt*.
        """,
    )
    base = base_model(graph)
    own = checkpoint_note(graph, TRAINER_LINE, SEARCH_LINE, THREE_PASS_LINE)
    trainer = train(graph, person, base)
    search = search_seeds(graph, person, base, trainer)
    render = render_three(graph, person, base, trainer, search, "indoor", file_prefix="full_pipeline")
    picture = graph.add("PreviewImage", "Picture", images=render["image"])
    drift = graph.add("PreviewAny", "Drift", (340, 156), source=render["drift"])
    report = graph.add("PreviewAny", "Report", source=render["report"])
    results = results_note(graph, LORA_PLACE, TRAINING_PLACE, SEARCH_PLACE, RENDER_PLACE)
    graph.groups["Render"] = [render, picture, drift, report]
    graph.place(*person.columns(results, base, own), [trainer], [search], [render], [picture, drift, report])


def train_only(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## Train only

        Two photos become an identity and a LoRA, through the four phases COARSE, MID, MID_FINE and FINAL_FINE. While
        it trains, **Trainer** draws loss, probe and drift. The LoRA that is kept is the one with the lowest drift, not
        the last.

        **Change first**
        1. {OWN_PERSON}
        2. {OWN_CAPTIONS}
        3. In a hurry: plan *demo base, quick*.
        """,
    )
    saved = graph.add("SaveIdentity", "Save identity", identity=person.identity["identity"], file_name=PERSON)
    base = base_model(graph)
    own = checkpoint_note(graph, TRAINER_LINE)
    trainer = train(graph, person, base)
    curves = graph.add("PreviewImage", "Curves", (480, 380), images=trainer["plot"])
    report = graph.add("PreviewAny", "Report", (480, 320), source=trainer["report"])
    name = graph.add("PreviewAny", "LoRA file", (480, 156), source=trainer["lora_name"])
    results = results_note(graph, LORA_PLACE, TRAINING_PLACE, IDENTITY_PLACE)
    graph.groups["Training"] += [curves, report, name]
    graph.groups["Keep the identity"] = [saved]
    graph.place(*person.columns(results, base, own), [trainer, saved], [curves, report, name])


def seed_search(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## Seed search

        Renders one prompt with {SPEC.search.control} seeds, measures each face against the identity, and gives the
        seed that keeps it best. {DRIFT} While it searches, **Search** shows the faces, best first: click one to copy
        its seed.

        **Change first**
        1. **Search**: *first_seed* and *count*; *stop_after_locked* *1* ends it with the first locked seed.
        2. With more seeds than *control*, previews are measured early and the worst dropped (*prune*).
        3. {OWN_PERSON}
        """,
        about_size=(360, 430),
    )
    base = base_model(graph)
    own = checkpoint_note(graph, TRAINER_LINE, SEARCH_LINE)
    trainer = train(graph, person, base)
    search = search_seeds(graph, person, base, trainer)
    seed = graph.add("PreviewAny", "Best seed", (340, 156), source=search["seed"])
    drift = graph.add("PreviewAny", "Its drift", (340, 156), source=search["drift"])
    best = graph.add("PreviewImage", "Its picture", images=search["best"])
    report = graph.add("PreviewAny", "Report", source=search["report"])
    sheet = graph.add("PreviewImage", "Contact sheet", (560, 560), images=search["contact_sheet"])
    results = results_note(graph, LORA_PLACE, SEARCH_PLACE)
    graph.groups["Seed"] += [seed, drift, best, report, sheet]
    graph.place(*person.columns(results, base, own), [trainer], [search], [seed, drift, best, report], [sheet])


def three_pass(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## Three passes

        Pass 1 renders the anchor: the person, plainly. Pass 2 restyles it to the scene. Pass 3 blends up to 30 % of
        the anchor's face back where the style let it drift, and heals the seam. **Render** lists
        the drift after each. {DRIFT}

        **Change first**
        1. **Render**: the *scene_prompt*.
        2. *style_face_denoise*: lower keeps more of the face, higher lets it follow the scene's light.
        3. {OWN_SEED}
        """,
        about_size=(360, 430),
    )
    base = base_model(graph)
    own = checkpoint_note(graph, TRAINER_LINE, SEARCH_LINE, THREE_PASS_LINE)
    trainer = train(graph, person, base)
    search = search_seeds(graph, person, base, trainer)
    render = render_three(graph, person, base, trainer, search, "green")
    pictures = [
        graph.add("PreviewImage", title, (320, 320), images=render[output])
        for title, output in (("Pass 1, anchor", "anchor"), ("Pass 2, styled", "styled"), ("Pass 3, final", "image"))
    ]
    report = graph.add("PreviewAny", "Report", (320, 240), source=render["report"])
    results = results_note(graph, LORA_PLACE, SEARCH_PLACE, RENDER_PLACE)
    graph.groups["Render"] = [render, *pictures, report]
    graph.place(*person.columns(results, base, own), [trainer], [search], [render], [*pictures, report])


def two_pass_stylize(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## Two passes, two bases

        Pass 1 renders the person with the LoRA on the base that it was trained on. Pass 2 restyles that picture on
        another base, which has never seen the person: only pixels pass between them. {DRIFT}

        **Change first**
        1. **Render**: the *scene_prompt*.
        2. *style_denoise* for the scene and *style_face_denoise* for the face: higher follows the style base more.
        3. **Style base**: any checkpoint, by *Load Checkpoint*.
        """,
        about_size=(360, 430),
    )
    base = base_model(graph)
    style = base_model(graph, "Style base", look="film")
    own = checkpoint_note(graph, TRAINER_LINE, SEARCH_LINE, TWO_PASS_LINE)
    trainer = train(graph, person, base)
    search = search_seeds(graph, person, base, trainer)
    two = SPEC.two_pass
    assert two is not None  # the demo has one
    render = graph.add(
        "TwoPassStylize",
        "Render",
        **wires(base),
        **wires(style, "style_"),
        identity=person.identity["identity"],
        lora=trainer["lora"],
        seed=search["seed"],
        anchor_prompt=two.anchor.prompt,
        scene_prompt=SCENES["rooftop"],
        **sampling(two.anchor),
        anchor_strength=two.anchor.strength,
        anchor_cfg=two.anchor.cfg,
        style_cfg=two.style.cfg,
        style_denoise=two.style.denoise,
        style_face_denoise=two.style.face_denoise,
    )
    anchor = graph.add("PreviewImage", "Pass 1, anchor", images=render["anchor"])
    picture = graph.add("PreviewImage", "Pass 2, styled", images=render["image"])
    drift = graph.add("PreviewAny", "Drift", (340, 156), source=render["drift"])
    report = graph.add("PreviewAny", "Report", source=render["report"])
    results = results_note(graph, LORA_PLACE, SEARCH_PLACE, RENDER_PLACE)
    graph.groups["Render"] = [render, anchor, picture, drift, report]
    graph.groups["Model"].remove(style)
    graph.groups["Style"] = [style]
    shown = [anchor, picture, drift, report]
    graph.place(*person.columns(results, base, own), [trainer], [search, style], [render], shown)


def rescue_any_image(graph: Graph) -> None:
    about = graph.note(
        "About this graph",
        f"""
        ## Rescue any picture

        Takes any picture in which the face drifted, wherever it was made, and one that shows the person well. The
        anchor's face is aligned to it, matched in colour, and blended in by up to 30 %: by the smallest share that
        reaches the lock. {DRIFT}

        **Change first**
        1. **Photo 1** is the anchor, **Photo 2** the styled picture; and the consent statement in **Identity**.
        2. *blend*: the cap. Where the two heads are turned too differently it refuses, and says so.
        3. To heal the seam with a low-denoise pass, wire MODEL, CLIP and VAE of *Load Checkpoint* into **Rescue**, with
           a *prompt* of the scene.
        """,
        (360, 500),
    )
    consent = graph.note("Consent", CONSENT_NOTE, (360, 250))
    anchor = load_photo(graph, 1, "the anchor, a picture that shows the person well")
    styled = load_photo(graph, 2, "the styled picture, in which the face drifted")
    faces = graph.add("FacePrep", "Faces", photo_1=anchor["IMAGE"], padding=SPEC.prep.padding, size=SPEC.prep.size)
    identity = embed(graph, faces)
    passes = SPEC.three_pass
    rescue = graph.add(
        "RescueBlend",
        "Rescue",
        styled=styled["IMAGE"],
        anchor=anchor["IMAGE"],
        identity=identity["identity"],
        blend=passes.blend,
        seed=SEED,
        strength=passes.rescue.strength,
        cfg=passes.rescue.cfg,
        denoise=passes.rescue.denoise,
        steps=passes.rescue.steps,
        sampler=passes.rescue.sampler,
        scheduler=passes.rescue.scheduler,
    )
    picture = graph.add("PreviewImage", "Picture", images=rescue["image"])
    before = graph.add("PreviewAny", "Drift before", (340, 156), source=rescue["drift_before"])
    after = graph.add("PreviewAny", "Drift after", (340, 156), source=rescue["drift_after"])
    report = graph.add("PreviewAny", "Report", source=rescue["report"])
    results = results_note(graph, RENDER_PLACE, after="")
    graph.groups |= {
        "Photos": [anchor, styled, faces],
        "Identity": [identity],
        "Rescue": [rescue, picture, before, after, report],
    }
    graph.place(
        [about, consent, results], [anchor, styled], [faces], [identity], [rescue], [picture, before, after, report]
    )


def batch_verify(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## Verify a batch

        Measures every picture of a batch against one identity and parts it into accepted and rejected ones. Here the
        identity comes from the two sample photos, and the batch is those two, a smaller copy, and a negative, which is
        rejected. {DRIFT} A picture without a face counts as drift 1.

        **Change first**
        1. **Score**: wire any IMAGE batch into *images*; the *threshold*.
        2. The identity is saved: next time, *Load Identity* takes the place of **Photos**, **Faces** and **Identity**.
        3. {OWN_PERSON}

        Similarity is no proof of who somebody is.
        """,
        lora=False,
        about_size=(360, 500),
    )
    saved = graph.add("SaveIdentity", "Save identity", identity=person.identity["identity"], file_name=PERSON)
    first, second = (photo["IMAGE"] for photo in person.photos)
    small = graph.add(
        "ImageScale", "Smaller copy", image=first, upscale_method="lanczos", width=256, height=256, crop="center"
    )
    negative = graph.add("ImageInvert", "Negative", image=second)
    pair = graph.add("ImageBatch", "Photos 1 and 2", image1=first, image2=second)
    three = graph.add("ImageBatch", "and the copy", image1=pair["IMAGE"], image2=small["IMAGE"])
    batch = graph.add("ImageBatch", "and the negative", image1=three["IMAGE"], image2=negative["IMAGE"])
    score = graph.add("DriftScore", "Score", (360, 560), images=batch["IMAGE"],
                      identity=person.identity["identity"])  # fmt: skip
    accepted, rejected = (
        graph.add("SaveImage", which.capitalize(), (400, 340), images=score[which],
                  filename_prefix=f"identity_lock/{which}")
        for which in ("accepted", "rejected")
    )  # fmt: skip
    report = graph.add("PreviewAny", "Report", (400, 240), source=score["report"])
    results = results_note(graph, BATCH_PLACE, IDENTITY_PLACE, after="")
    graph.groups["Identity"].append(saved)
    graph.groups |= {
        "Batch": [small, negative, pair, three, batch],
        "Score": [score, accepted, rejected, report],
    }
    graph.place(
        [person.about, person.consent, results], person.photos, [person.faces], [person.identity], [saved],
        [small, negative, pair], [three], [batch], [score], [accepted, rejected, report]
    )  # fmt: skip


def scene_continuity(graph: Graph) -> None:
    person = open_person(
        graph,
        f"""
        ## One seed, four scenes

        The best seed of the search renders the same person in four scenes: indoors by natural light, a field at golden
        hour, a rooftop at dusk, a spa garden. They share one anchor; each picture has its drift under it. {DRIFT}

        **Change first**
        1. The *scene_prompt* of each scene.
        2. {OWN_PERSON}
        3. {OWN_SEED}

        The demo base knows neither wind nor leaves before a face; with a checkpoint of your own add them to the rooftop
        and the spa garden.
        """,
        about_size=(360, 500),
    )
    base = base_model(graph)
    own = checkpoint_note(graph, TRAINER_LINE, SEARCH_LINE, THREE_PASS_LINE)
    trainer = train(graph, person, base)
    search = search_seeds(graph, person, base, trainer)
    told = (
        ("Indoor", "indoor", "Indoor, natural light"),
        ("Field", "field", "Outdoor, golden hour"),
        ("Rooftop", "rooftop", "Rooftop at dusk"),
        ("Garden", "garden", "Spa garden"),
    )
    anchor: dict[str, Output] = {}
    columns: list[list[Node]] = []
    for title, scene, group in told:
        render = render_three(
            graph, person, base, trainer, search, scene, title, **anchor, file_prefix=f"scene_{scene}"
        )
        anchor = anchor or {"anchor": render["anchor"]}
        picture = graph.add("PreviewImage", f"{title} picture", (320, 340), images=render["image"])
        drift = graph.add("PreviewAny", f"{title} drift", (320, 156), source=render["drift"])
        graph.groups[group] = [render, picture, drift]
        columns += [[render], [picture, drift]]
    results = results_note(graph, LORA_PLACE, SEARCH_PLACE, RENDER_PLACE)
    graph.place(*person.columns(results, base, own), [trainer], [search], *columns)


GRAPHS: dict[str, Callable[[Graph], None]] = {
    build.__name__: build
    for build in (
        full_pipeline,
        train_only,
        seed_search,
        three_pass,
        two_pass_stylize,
        rescue_any_image,
        batch_verify,
        scene_continuity,
    )
}


def read_schema() -> Schema:
    found: Schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return found


def build_graph(name: str, schema: Schema | None = None) -> Graph:
    graph = Graph(name, schema or read_schema(), SIZES)
    GRAPHS[name](graph)
    return graph


def files() -> dict[str, str]:
    """Path within workflows/ -> text, of every graph in both formats."""
    found: dict[str, str] = {}
    for name in GRAPHS:
        graph = build_graph(name)
        found[f"{name}.json"] = ui_text(graph.ui())
        found[f"api/{name}.json"] = api_text(graph.api())
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
