"""Background removal uses local files only, and says where a missing one should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from identity_lock.errors import RecogniserError
from identity_lock.identity import remove_background
from identity_lock.identity.background import LOCAL_MODELS, available_models

from .onnx_models import write_background

# In a process of its own: rembg compiles pymatting on import unless numba is told not to, and the network is cut off.
REAL_REMBG = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("the network was touched")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import numpy as np
from identity_lock.errors import PhotoError
from identity_lock.identity import PrepSettings, default_detector, prepare_photo, read_photo, remove_background

good, inverted, picture = sys.argv[1:]
page = np.zeros((120, 90, 3), np.uint8)
page[:, 45:] = 255
mask = remove_background(page, "u2netp", good)
report = {"shape": mask.shape, "dtype": str(mask.dtype)}
report["dark"], report["light"] = float(mask[:, :40].max()), float(mask[:, 50:].min())
photo = read_photo(picture)
detector = default_detector()
settings = PrepSettings(size=256, background_model="u2netp", background_fill=(10, 200, 30), padding=1.5)
(item,) = prepare_photo(photo, detector, settings, models_dir=good)
beyond = item.valid_mask == 0
report["fill"] = np.median(item.pixels[beyond], axis=0).tolist()
try:
    prepare_photo(photo, detector, settings, models_dir=inverted)
except PhotoError as error:
    report["inverted"] = str(error)
print(json.dumps(report))
"""


def test_none_keeps_everything(hopper):
    for model in (None, "none"):
        mask = remove_background(hopper.pixels, model)
        assert mask.shape == (600, 512) and mask.dtype == np.float32 and (mask == 1).all()


@pytest.mark.parametrize("model", sorted(LOCAL_MODELS))
def test_a_missing_file_is_named_with_the_path_it_should_have(tmp_path, hopper, model):
    with pytest.raises(RecogniserError) as caught:
        remove_background(hopper.pixels, model, tmp_path)
    assert str(tmp_path / f"{model}.onnx") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["withoutbg", "atlascloud", "bria-rmbg", "sam", "u2net_custom", "../u2net", ""])
def test_models_that_upload_or_are_unknown_are_refused(tmp_path, hopper, model):
    with pytest.raises(RecogniserError, match="runs on this machine.*u2netp"):
        remove_background(hopper.pixels, model, tmp_path)


def test_rembgs_own_folders_are_honoured(tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    write_background(tmp_path / "u2net.onnx")
    write_background(tmp_path / "models" / "silueta" / "silueta.onnx")
    found = {info.name: info for info in available_models()}
    assert found["u2net"].path == tmp_path / "u2net.onnx"
    assert found["silueta"].found and found["silueta"].remedy == ""
    assert not found["birefnet-portrait"].found and "birefnet-portrait.onnx" in found["birefnet-portrait"].remedy


def test_a_local_model_runs_through_rembg_without_a_network(tmp_path, hopper_path):
    pytest.importorskip("pooch")
    write_background(tmp_path / "good" / "u2netp.onnx")
    write_background(tmp_path / "inverted" / "u2netp.onnx", inverted=True)
    arguments = [str(tmp_path / "good"), str(tmp_path / "inverted"), str(hopper_path)]
    finished = subprocess.run(
        [sys.executable, "-c", REAL_REMBG, *arguments],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["shape"] == [120, 90] and report["dtype"] == "float32"
    assert report["dark"] < 0.05 and report["light"] > 0.95
    assert report["fill"] == [10, 200, 30]
    assert "took the face for background" in report["inverted"]
    assert not any(Path(tmp_path, hidden).exists() for hidden in (".u2net", ".rembg"))
