"""The LoRA file: one file that stock diffusers loads whole, with the output that was trained; it tells no secrets."""

import errno
import json
import logging
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from identity_lock.engines.diffusers import LentDenoiser
from identity_lock.engines.lora_file import ALPHA, DOWN, UP, LoraWeights, read_lora, safetensors_bytes, write_lora
from identity_lock.errors import CheckpointError, OutputError
from identity_lock.tests.engines.test_diffusers_engine import pipeline_of, random_lora
from identity_lock.tests.fixtures.tiny_engine import phase, tiny_data, tiny_plan
from identity_lock.training.loop import train
from identity_lock.training.lora import target_modules
from identity_lock.training.phases import ProbeSpec

T = torch.tensor([400])
PLAN = tiny_plan(
    (phase("COARSE", 5e-3, 8.0, "mse", "adamw"), phase("MID", 2e-3, 4.0, "huber", "adamw", 2)),
    batch=1,
    targets="all",
    probe=ProbeSpec(pairs=4, every=2),
)


class Trained:
    """A LoRA on every kind of layer of a real SD1.5 or SDXL layout, and what the PEFT module said at its last step."""

    def __init__(self, engine, meter, folder):
        self.engine = engine
        self.data = tiny_data(engine, copies=0)
        self.conditioning = [engine.encode_prompt("photo of a woman")]
        self.x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
        self.plain = self.output()
        seen = []

        def look(progress):
            if progress.step == PLAN.max_steps:
                seen.append(self.output())

        self.lora, self.report = train(engine, self.data, meter, PLAN, folder, size=64, name="grace", on_progress=look)
        self.peft = seen[0]
        self.file = write_lora(self.lora, folder / "grace.safetensors")

    @torch.no_grad()
    def output(self):
        return LentDenoiser(self.engine).predict(self.x, T, self.conditioning)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def trained(request, meter, tmp_path_factory):
    engine = request.getfixturevalue(f"{request.param}_engine")
    return Trained(engine, meter, tmp_path_factory.mktemp(request.param))


def test_it_moved_the_output_and_the_engine_gives_the_same_from_the_file(trained):
    scale = float(trained.peft.abs().max())
    assert (trained.peft - trained.plain).abs().max() > 0.02 * scale
    assert torch.equal(trained.output(), trained.plain)  # the module itself is as before
    lora = read_lora(trained.file)
    with trained.engine.patched(lora, 1.0):
        assert (trained.output() - trained.peft).abs().max() < 1e-5 * scale
    with trained.engine.patched(lora, 0.0):
        assert torch.equal(trained.output(), trained.plain)


def test_diffusers_load_lora_weights_takes_every_key_and_gives_the_same_output(trained, checkpoint_files):
    architecture = trained.engine.card.architecture
    pipeline = pipeline_of(trained.engine, checkpoint_files[architecture])
    heard = []

    class Ear(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    ear = Ear(level=logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("diffusers", "peft", "py.warnings")]
    for logger in loggers:
        logger.addHandler(ear)
    try:
        pipeline.load_lora_weights(str(trained.file.parent), weight_name=trained.file.name)
        loaded = {n for n, m in pipeline.unet.named_modules() if hasattr(m, "lora_A") and len(m.lora_A)}
        scales = {s for m in pipeline.unet.modules() if hasattr(m, "lora_A") for s in m.scaling.values()}
        output = trained.output()
    finally:
        pipeline.unload_lora_weights()
        for logger in loggers:
            logger.removeHandler(ear)
    # a file for the UNet alone has nothing for the text encoders, and diffusers says so; of ours it misses no key
    assert not [told for told in heard if not re.match("No LoRA keys associated to CLIPTextModel", told)]
    assert loaded == set(target_modules(trained.engine.unet, "all")) and scales == {1.0}
    assert (output - trained.peft).abs().max() < 1e-5 * float(trained.peft.abs().max())
    assert torch.equal(trained.output(), trained.plain)


def test_it_is_the_kohya_layout_of_the_unet_alone_with_alpha_folded_in(trained):
    tensors = load_file(trained.file)
    stems = {re.sub(r"\.(lora_down\.weight|lora_up\.weight|alpha)$", "", key) for key in tensors}
    assert all(stem.startswith("lora_unet_") and "." not in stem for stem in stems)
    assert len(tensors) == 3 * len(stems) == 3 * len(target_modules(trained.engine.unet, "all"))
    for stem in stems:
        assert float(tensors[stem + ALPHA]) == tensors[stem + DOWN].shape[0] == PLAN.rank
        assert tensors[stem + DOWN].dtype == tensors[stem + UP].dtype == torch.float32
    kinds = ("attn1_to_q", "attn2_to_out_0", "ff_net_0_proj", "ff_net_2", "proj_in", "conv1", "conv_shortcut",
             "time_emb_proj", "downsamplers_0_conv", "upsamplers_0_conv", "conv_in", "conv_out")  # fmt: skip
    assert all(any(stem.endswith(kind) for stem in stems) for kind in kinds)


def test_the_metadata_says_where_it_comes_from_and_not_who_it_shows(trained, meter):
    with safe_open(str(trained.file), framework="pt") as file:
        told = file.metadata()
    assert told["base_model_sha256"] == trained.engine.card.sha256 and len(told["base_model_sha256"]) == 64
    assert json.loads(told["phases"]) == [["COARSE", 0, 4], ["MID", 4, 6]]
    assert [name["name"] for name in json.loads(told["plan"])["phases"]] == ["COARSE", "MID"]
    assert [step for step, _ in json.loads(told["denoising_probe"])] == [2, 4, 6]
    assert [step for step, _ in json.loads(told["identity_probe"])] == [0, 4, 6] and told["kept_step"] == "6"
    assert told["recogniser"] == "sface" and told["recogniser_sha256"] == meter.reader.recogniser.sha256
    assert set(json.loads(told["versions"])) >= {"torch", "diffusers", "peft"}
    # never the embedding, the photo, or its name
    content = trained.file.read_bytes()
    for secret in (meter.reference, trained.data.latents.numpy(), trained.data.masks.numpy()):
        for dtype in (np.float16, np.float32, np.float64):
            assert secret.astype(dtype).ravel()[:8].tobytes() not in content
    text = json.dumps(told)
    assert not any(f"{value:.4f}"[:7] in text for value in meter.reference[np.abs(meter.reference) > 0.1])
    assert "hopper" not in text.lower() and ".jpg" not in text


# ---- writing and reading -------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was_and_twice_the_same_bytes(engine, tmp_path):
    metadata = {f"key {i}": f"wört {i}" for i in range(20)}
    lora = LoraWeights("face", random_lora(engine).tensors, metadata)
    path = write_lora(lora, tmp_path / "deep" / "face.safetensors")
    back = read_lora(path)
    assert back.name == "face" and back.metadata == metadata and back.sha256 == lora.sha256
    assert all(torch.equal(back.tensors[key], lora.tensors[key]) for key in lora.tensors)
    shuffled = LoraWeights("face", dict(reversed(lora.tensors.items())), dict(reversed(metadata.items())))
    assert write_lora(shuffled, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["face.safetensors"]


def test_metadata_is_written_in_one_order(engine):
    """The library's own order changes from process to process, and with it the file's hash."""
    written = safetensors_bytes({"x": torch.ones(3)}, {key: key for key in "zyxabc"})
    header = written[8 : 8 + int.from_bytes(written[:8], "little")]
    assert list(json.loads(header)["__metadata__"]) == sorted("zyxabc") and len(header) % 8 == 0


def test_the_hash_follows_the_weights_and_not_the_name(engine):
    one, two = random_lora(engine, seed=1), random_lora(engine, seed=2)
    assert one.sha256 == LoraWeights("other", one.tensors, {"a": "b"}).sha256 != two.sha256


def test_files_that_are_no_lora_are_refused_in_words(engine, tmp_path):
    with pytest.raises(CheckpointError, match="There is no LoRA at .*none.safetensors; train one first"):
        read_lora(tmp_path / "none.safetensors")
    path = write_lora(random_lora(engine), tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cut.safetensors is not a whole safetensors file"):
        read_lora(path)
    save_file({"unet.to_q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "peft.safetensors")
    with pytest.raises(CheckpointError, match="peft.safetensors holds no LoRA in the kohya layout"):
        read_lora(tmp_path / "peft.safetensors")
    halved = {k: v for k, v in random_lora(engine).tensors.items() if k != "lora_unet_conv_out" + UP}
    save_file(halved, tmp_path / "halved.safetensors")
    with pytest.raises(CheckpointError, match="halved.safetensors holds no LoRA.*pairs"):
        read_lora(tmp_path / "halved.safetensors")


def test_a_full_disk_leaves_the_file_that_was_there(engine, tmp_path, monkeypatch):
    path = write_lora(random_lora(engine, seed=1), tmp_path / "face.safetensors")
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="face.safetensors \\(No space left on device\\); free some space"):
        write_lora(random_lora(engine, seed=2), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["face.safetensors"]


def test_a_folder_that_cannot_be_is_refused_in_words(engine, tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="Could not write .*face.safetensors"):
        write_lora(random_lora(engine), tmp_path / "file" / "face.safetensors")
