"""What a user reads when something is wrong: one sentence about it, at the node where it is."""

from __future__ import annotations

import pytest
from PIL import Image

from identity_lock.tests.host.client import PromptError
from identity_lock.tests.host.pack import PROMPT, person, search, sentence, shown, tell, three_pass, trainer


def refused(client, graph) -> PromptError:
    with pytest.raises(PromptError) as told:
        client.prompt(graph)
    return told.value


def assert_told(error: PromptError, node: str, *words: str) -> None:
    message = str(error)
    assert sentence(message), message
    assert error.node == node
    for word in words:
        assert word.lower() in message.lower(), message


def test_a_photo_without_a_face(client, comfy_server):
    Image.new("RGB", (400, 400), (90, 120, 160)).save(comfy_server.base / "input" / "sky.png")
    who = person(client, photo="sky.png")
    tell(who.graph, who.faces[4])
    assert_told(refused(client, who.graph), "FacePrep", "face", "photo_1")


def test_references_of_nobody(client):
    who = person(client)
    nobody = who.graph.add("EmptyImage", width=256, height=256)
    other = who.graph.add("IdentityEmbed", references=nobody[0], name="x", consent=who.identity.inputs["consent"])
    tell(who.graph, other[1])
    assert_told(refused(client, who.graph), "IdentityEmbed", "face")


@pytest.mark.parametrize("consent", ["", "todo", "yes"])
def test_no_consent(client, consent):
    who = person(client, consent=consent)
    tell(who.graph, who.identity[1])
    error = refused(client, who.graph)
    assert_told(error, "IdentityEmbed", "consent")


@pytest.mark.parametrize("prompt", ["a nude portrait of the person", "the person as a child of 8 years"])
def test_a_prompt_that_is_refused(client, prompt):
    who = person(client)
    shown(who.graph, search(who, prompt=prompt)[2])
    assert_told(refused(client, who.graph), "DriftSeedSearch", "prompt")


def test_a_scene_that_is_refused(client):
    who = person(client)
    shown(who.graph, three_pass(who, scene_prompt=PROMPT + ", topless")[0])
    assert_told(refused(client, who.graph), "ThreePassRender", "scene")


def test_a_size_that_the_model_does_not_have(client):
    who = person(client)
    shown(who.graph, search(who, width=132)[2])
    message = str(refused(client, who.graph))
    assert "132" in message or "multiple" in message.lower(), message


def test_a_lora_of_another_model(client, sd15):
    """A LoRA that the SD1.5 checkpoint was trained with, wired to the demo base."""
    who = person(client)
    loader = who.graph.add("CheckpointLoaderSimple", ckpt_name=sd15.name)
    wired = dict(model=loader[0], clip=loader[1], vae=loader[2])
    foreign = trainer(
        who, name="foreign", steps=(1, 1, 1, 1), resolution=64, plan="paper", rank=4, batch=1, layers="attention",
        **wired,
    )  # fmt: skip
    shown(who.graph, search(who, lora=foreign[0])[2])
    assert_told(refused(client, who.graph), "DriftSeedSearch", "lora")


def test_masks_that_do_not_belong_to_the_pictures(client):
    who = person(client)
    more = who.graph.add("FacePrep", photo_1=who.photo[0], rotations=True)
    tell(who.graph, trainer(who, name="masks", face_masks=more[2])[2])
    assert_told(refused(client, who.graph), "PhasedLoRATrainer", "mask")


def test_a_file_that_leaves_its_folder(client):
    who = person(client)
    tell(who.graph, who.graph.add("SaveIdentity", identity=who.identity[0], file_name="../../escaped")[0])
    assert_told(refused(client, who.graph), "SaveIdentity")
    who = person(client)
    tell(who.graph, trainer(who, name="../escaped")[1])
    assert_told(refused(client, who.graph), "PhasedLoRATrainer")


def test_an_identity_file_that_is_not_there(client):
    graph = client.graph()
    tell(graph, graph.add("LoadIdentity", file="nobody.safetensors")[1])
    error = refused(client, graph)
    assert "nobody.safetensors" in str(error) and "Traceback" not in str(error)


def test_rungs_that_make_no_sense(client):
    who = person(client)
    shown(who.graph, search(who, rungs="early: some")[2])
    assert "rung" in str(refused(client, who.graph)).lower()


def test_the_log_holds_no_embedding(client, comfy_server):
    """Embeddings are biometric data: after all these runs, no row of numbers stands in the server's log."""
    import re

    assert re.search(r"(?:-?\d\.\d{3,}[,\s]+){20}", comfy_server.log_text()) is None
