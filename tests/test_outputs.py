"""Every picture that a whole run leaves says what it is, and is signed where signing was asked for."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from identity_lock import cli
from identity_lock.demo.subjects import PHOTOS
from identity_lock.safety.c2pa_signing import manifest_state
from identity_lock.safety.provenance import COMPOSITE, DATA, GENERATED, read_label, read_record
from identity_lock.safety.statement import read_statement
from identity_lock.tests.fixtures.quick_demo import shorten_demo

ROOT = Path(__file__).resolve().parents[1]
CHARTS = {"histogram.png", "training.png"}
ARGUMENTS = [
    "run", str(PHOTOS / "synthetic_1.png"),
    "--consent", "Nobody is depicted: this person was rendered from shape data.",
    "--name", "Robin",
    "--description", "man, short brown hair, beard",
    "--scene", "golden hour field",
    "--seeds", "3",
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch) -> None:
    """The command sets offline switches for its process; the tests after it shall not inherit them."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run_here(*arguments: object) -> tuple[int, str]:
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        shorten_demo(patch.setattr)
        return cli.main([*ARGUMENTS, *map(str, arguments)]), said.getvalue()


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A chain and its key, by the commands of docs/signing.md."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command, which makes the test certificate, is not installed")
    folder = tmp_path_factory.mktemp("keys")
    text = (ROOT / "docs" / "signing.md").read_text()
    (commands,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def finished(keys, tmp_path_factory) -> SimpleNamespace:
    """A run without signing up to the end, and the same command again, now with it."""
    out = tmp_path_factory.mktemp("run") / "out"
    plain, _ = run_here("--out", out)
    unsigned = {path: manifest_state(path).state for path in out.rglob("*.png")}
    signed, _ = run_here("--out", out, "--sign-certificate", keys / "chain.pem", "--sign-key", keys / "signer.key")
    return SimpleNamespace(out=out, codes=(plain, signed), unsigned=unsigned)


def test_every_picture_of_a_run_says_what_it_is(finished):
    assert finished.codes == (0, 0)
    pictures = {path.relative_to(finished.out).as_posix(): path for path in finished.out.rglob("*.png")}
    assert {"contact_sheet.png", "renders/three_pass_golden_hour_field.png", *CHARTS} <= set(pictures)
    for name, path in pictures.items():
        label = read_label(path)
        assert label.source_type in ({DATA} if name in CHARTS else {GENERATED, COMPOSITE}), name
        assert label.creator == "Identity Lock" and label.notice, name


def test_every_render_states_whole_provenance(finished):
    renders = [*finished.out.glob("renders/*.png"), *finished.out.glob("seeds/*.png")]
    assert len(renders) >= 4
    for path in renders:
        statement = read_statement(path)
        assert statement.sound, statement.problems
        record = statement.record
        assert len(record["recogniser_sha256"]) == 64 == len(record["report_recogniser_sha256"])
        assert record["recogniser_sha256"] != record["report_recogniser_sha256"]
        assert all(len(model["sha256"]) == 64 for model in record["models"].values())
        assert (statement.label.source_type == COMPOSITE) is record["composite"]
    two_pass = [read_record(path) for path in renders if read_record(path)["kind"] == "two_pass"]
    assert all({"base", "style", "lora"} <= set(record["models"]) for record in two_pass)


def test_signing_reaches_every_picture_of_a_person_those_of_an_earlier_run_too(finished):
    assert set(finished.unsigned.values()) == {"none"}
    for path in finished.out.rglob("*.png"):
        state = manifest_state(path)
        if path.name in CHARTS:
            assert state.state == "none"
            continue
        assert state.state == "valid" and state.signed_by == "My archive pictures", path
        assert state.source_type == read_label(path).source_type


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sign-certificate", "{}/signer.pem", "--sign-key", "{}/signer.key"), "alone, without the one that issued"),
        (("--sign-certificate", "{}/chain.pem", "--sign-key", "{}/root.key"), "does not belong"),
        (("--sign-certificate", "{}/chain.pem"), "--sign-key KEY.pem"),
        (("--sign-key", "{}/signer.key"), "--sign-certificate CHAIN.pem"),
        (("--sign-certificate", "{}/chain.pem", "--sign-key", "{}/signer.key", "--sign-algorithm", "X"), "unknown"),
    ],
)
def test_what_cannot_sign_is_refused_before_anything_is_made(keys, tmp_path, options, sentence):
    code, said = run_here("--out", tmp_path / "out", *(option.format(keys) for option in options))
    assert code == 1 and sentence in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.jpg")), ids=lambda path: path.stem)
def test_the_pictures_that_come_with_the_pack_say_what_they_are(path):
    with Image.open(path) as picture:
        assert COMPOSITE.encode() in picture.info["xmp"]
