"""C2PA signing with a certificate made on the spot. Skips, saying so, without c2pa-python or the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from identity_lock.errors import OutputError, PhotoError
from identity_lock.safety import c2pa_signing, provenance
from identity_lock.safety.offline import no_network

needs_c2pa = pytest.mark.skipif(not c2pa_signing.available(), reason="the optional c2pa-python is not installed")
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

CERTIFICATE = """
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -days 2 -out ca.pem -subj /O=Test/CN=Root
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl ecparam -name prime256v1 -genkey -noout -out raw.key
openssl pkcs8 -topk8 -nocrypt -in raw.key -out signer.key
openssl req -new -key signer.key -out signer.csr -subj /O=Test/CN=Signer
openssl x509 -req -in signer.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out signer.pem
"""


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command, which makes the test certificate, is not installed")
    folder = tmp_path_factory.mktemp("signer")
    (folder / "extensions").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=critical,emailProtection\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    for command in CERTIFICATE.replace("\n    ", " ").strip().split("\n"):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "chain.pem").write_bytes((folder / "signer.pem").read_bytes() + (folder / "ca.pem").read_bytes())
    return folder


def written(tmp_path: Path) -> Path:
    path = tmp_path / "my portrait.png"
    provenance.write_png(PIXELS, path, {"seed": 7}, composite=True)
    return path


@needs_c2pa
def test_a_signed_picture_keeps_its_pixels_and_record_and_states_its_source(tmp_path: Path, signer: Path) -> None:
    from PIL import Image

    path = written(tmp_path)
    assert c2pa_signing.read_manifest(path) is None
    with no_network():
        c2pa_signing.sign_c2pa(path, signer / "chain.pem", signer / "signer.key")
    assert np.array_equal(np.array(Image.open(path)), PIXELS)
    assert provenance.read_record(path) == {"seed": 7}
    store = c2pa_signing.read_manifest(path)
    assert store is not None and store["validation_state"] in ("Valid", "Trusted")
    assert provenance.COMPOSITE in str(store["manifests"][store["active_manifest"]]["assertions"])
    assert [p.name for p in tmp_path.iterdir()] == ["my portrait.png"]


@needs_c2pa
def test_a_changed_pixel_breaks_the_signature(tmp_path: Path, signer: Path) -> None:
    path = written(tmp_path)
    c2pa_signing.sign_c2pa(path, signer / "chain.pem", signer / "signer.key")
    content = bytearray(path.read_bytes())
    content[content.rindex(b"IDAT") + 40] ^= 1
    path.write_bytes(content)
    store = c2pa_signing.read_manifest(path)
    assert store is not None and store["validation_state"] == "Invalid"


@needs_c2pa
def test_a_wrong_certificate_or_key_is_named_and_the_picture_stays(tmp_path: Path, signer: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    (tmp_path / "text").write_text("no key")
    for certificate, key, algorithm, sentence in (
        (tmp_path / "missing.pem", signer / "signer.key", "ES256", "certificate .* cannot be read"),
        (signer / "chain.pem", tmp_path / "text", "ES256", "private key .* not in PEM"),
        (signer / "chain.pem", signer / "signer.key", "RSA", "algorithm 'RSA' is unknown"),
        (signer / "chain.pem", signer / "signer.key", "PS256", "could not be signed"),
        (signer / "chain.pem", signer / "ca.key", "ES256", "could not be signed"),
    ):
        with pytest.raises(OutputError, match=sentence):
            c2pa_signing.sign_c2pa(path, certificate, key, algorithm=algorithm)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my portrait.png", "text"]


@pytest.mark.skipif(c2pa_signing.available(), reason="c2pa-python is installed")
def test_without_the_package_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="c2pa-python"):
        c2pa_signing.sign_c2pa(written(tmp_path), "chain.pem", "signer.key")
    with pytest.raises(PhotoError, match="c2pa-python"):
        c2pa_signing.read_manifest(written(tmp_path))
