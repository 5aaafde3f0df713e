"""C2PA signing with certificates made by the very commands of docs/signing.md, and attacks on what was signed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from PIL import Image

from identity_lock import cli
from identity_lock.errors import OutputError, PhotoError
from identity_lock.identity.drift import Drift
from identity_lock.rendering.log import RenderLog, RenderRecord, outcome
from identity_lock.safety import c2pa_signing, provenance
from identity_lock.safety.c2pa_signing import Signer, manifest_state, read_manifest, read_signer
from identity_lock.safety.offline import no_network

MEASURED = outcome(Drift(0.1, object(), "sface"), None)  # type: ignore[arg-type]
RECORD = RenderRecord("three_pass", 7, {}, {}, "Robin", "", "Robin agreed to these pictures.", **MEASURED)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "signing.md"
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands in the documentation leave."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command, which the documentation uses, is not installed")
    return documented(tmp_path_factory.mktemp("made") / "signer")


def documented(folder: Path) -> Path:
    folder.mkdir()
    (commands,) = re.findall(r"^```sh\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def signer(folder: Path) -> Signer:
    return read_signer(folder / "chain.pem", folder / "signer.key")


def write(tmp_path: Path, signer: Signer | None, *, composite: bool = False) -> Path:
    path = tmp_path / "my portrait.png"
    provenance.write_png(PIXELS, path, {"seed": 7}, composite=composite, signer=signer)
    return path


def issued(folder: Path, begins: datetime, ends: datetime) -> Path:
    """The documented chain, with other dates on the signer's certificate."""
    leaf, root = (
        x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in ("signer.pem", "root.pem")
    )
    builder = x509.CertificateBuilder(leaf.issuer, leaf.subject, leaf.public_key(), leaf.serial_number, begins, ends)
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    key = serialization.load_pem_private_key((folder / "root.key").read_bytes(), None)
    made = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    path = folder / f"chain_{begins:%j}_{ends:%j%S}.pem"
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (made, root)))
    return path


# ---- what a signed picture holds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("composite", "source_type"), [(False, provenance.GENERATED), (True, provenance.COMPOSITE)])
def test_a_signed_picture_keeps_its_pixels_and_record_and_states_its_source(tmp_path, signer, composite, source_type):
    with no_network():
        path = write(tmp_path, signer, composite=composite)
        state = manifest_state(path)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), PIXELS)
    assert provenance.read_record(path) == {"seed": 7} and provenance.read_source_type(path) == source_type
    assert (state.state, state.source_type, state.problems) == ("valid", source_type, ())
    assert (state.signed_by, state.issuer, state.trusted) == ("My archive pictures", "My archive", None)
    assert [one.name for one in tmp_path.iterdir()] == ["my portrait.png"]


def test_a_root_that_is_named_is_judged(tmp_path, folder, signer, capsys):
    """By the command: the root that issued the certificate, another of the same names, and a picture without any."""
    other = documented(tmp_path / "other")
    picture = RenderLog(tmp_path / "signed", signer=signer).write(PIXELS, "picture", RECORD)
    unsigned = RenderLog(tmp_path / "unsigned").write(PIXELS, "picture", RECORD)

    def verified(path: Path, root: Path) -> tuple[int, str]:
        code = cli.main(["verify", str(path), "--provenance", "--trusted-root", str(root)])
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    with no_network():
        code, told = verified(picture, folder / "root.pem")
        assert code == 0 and "its certificate leads to the root that you trust" in told
        code, told = verified(picture, other / "root.pem")
        assert code == 1 and "somebody else signed" in told and "My archive pictures" in told
        code, told = verified(unsigned, folder / "root.pem")
        assert code == 1 and "carries no signature" in told
        code, told = verified(picture, folder / "root.key")
        assert code == 1 and "The root certificate" in told and "give the .pem file of a root" in told
    assert cli.main(["verify", str(picture), "--identity", "x", "--trusted-root", str(folder / "root.pem")]) == 1
    assert "add --provenance" in capsys.readouterr().err


def test_the_library_itself_reads_it_back_without_our_settings(tmp_path, signer):
    """Another program, which judges trust too, finds the signature sound and the root unknown."""
    with c2pa.Reader(str(write(tmp_path, signer))) as reader:
        store = json.loads(reader.json())
    codes = [one["code"] for one in store.get("validation_status", [])]
    assert store["validation_state"] in ("Valid", "Invalid") and set(codes) <= {"signingCredential.untrusted"}


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"IDAT", None), (b'{"seed": 7}', b'{"seed": 8}'), (b"trainedAlgorithmicMedia", b"trainedAlgorithmicMediA")],
    ids=["a pixel", "the record", "the source type"],
)
def test_whatever_is_changed_breaks_the_signature(tmp_path, signer, before, after):
    path = write(tmp_path, signer)
    content = bytearray(path.read_bytes())
    at = content.rindex(before)
    if after is None:
        content[at + 40] ^= 1
    else:
        content[at : at + len(before)] = after
    path.write_bytes(content)
    state = manifest_state(path)
    assert state.state == "broken" and "Hashes do not match" in " ".join(state.problems)


def test_a_picture_pasted_under_another_ones_manifest_is_broken(tmp_path, signer):
    """The whole manifest chunk is moved to a forged picture: it fits only the one it was made for."""
    path = write(tmp_path, signer)
    whole = path.read_bytes()
    at = whole.index(b"caBX") - 4
    chunk = whole[at : at + 12 + int.from_bytes(whole[at : at + 4], "big")]
    provenance.write_png(255 - PIXELS, path, {"seed": 7}, composite=False)
    forged = path.read_bytes()
    path.write_bytes(forged[:33] + chunk + forged[33:])
    assert manifest_state(path).state == "broken"


def test_a_manifest_that_is_cut_is_broken_and_none_is_none(tmp_path, signer):
    path = write(tmp_path, signer)
    path.write_bytes(path.read_bytes()[:700])
    assert manifest_state(path).state == "broken"
    assert manifest_state(write(tmp_path, None)).state == "none" and read_manifest(write(tmp_path, None)) is None


def test_a_manifest_on_the_network_is_never_fetched(tmp_path):
    """By itself the library asks whatever address a picture names; the first read shows that this one is heard."""
    asked = []

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                asked.append(connection)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/manifest.c2pa"
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{address}"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        path = tmp_path / "far.png"
        path.write_bytes(provenance.encode_png(PIXELS, {provenance.XMP_KEY: xmp}))
        with pytest.raises(c2pa.C2paError):
            c2pa.Reader(str(path))
        heard = len(asked)
        assert heard >= 1
        assert manifest_state(path).state == "remote" and len(asked) == heard


def test_a_certificate_that_expires_afterwards_is_told_from_a_changed_picture(tmp_path, folder):
    now = datetime.now(UTC)
    brief = read_signer(issued(folder, now - timedelta(days=9), now + timedelta(seconds=4)), folder / "signer.key")
    path = write(tmp_path, brief)
    assert manifest_state(path).state == "valid"
    time.sleep(max(0.0, (now + timedelta(seconds=6) - datetime.now(UTC)).total_seconds()))
    state = manifest_state(path)
    assert state.state == "expired" and "expired" in " ".join(state.problems)
    assert manifest_state(path, folder / "root.pem").state == "expired"  # whichever root is asked for


# ---- what is refused before the work ---------------------------------------------------------------------------------


def test_an_expired_certificate_is_refused_with_its_date(folder):
    now = datetime.now(UTC)
    ended = now - timedelta(days=3)
    with pytest.raises(OutputError, match=rf"My archive pictures.* expired on {ended:%d %B %Y}; renew it"):
        read_signer(issued(folder, now - timedelta(days=30), ended), folder / "signer.key")
    with pytest.raises(OutputError, match="set the clock right"):
        read_signer(issued(folder, now + timedelta(days=3), now + timedelta(days=9)), folder / "signer.key")


def test_a_self_signed_leaf_is_told_how_to_make_a_chain(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-new", "-key", "signer.key", "-days", "9", "-subj", "/CN=Me", "-out", "me.pem",
         "-addext", "keyUsage=critical,digitalSignature", "-addext", "extendedKeyUsage=critical,emailProtection"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(OutputError, match=r"self-signed.*docs/signing\.md tells how to make a chain"):
        read_signer(folder / "me.pem", folder / "signer.key")


def test_a_leaf_without_its_chain_and_a_chain_in_the_wrong_order(folder):
    with pytest.raises(OutputError, match=r"alone, without the one that issued it \(.*My archive root.*cat signer"):
        read_signer(folder / "signer.pem", folder / "signer.key")
    stranger = folder / "stranger.pem"
    stranger.write_bytes((folder / "signer.pem").read_bytes() * 2 + (folder / "root.pem").read_bytes())
    with pytest.raises(OutputError, match="was not issued by the one after it"):
        read_signer(stranger, folder / "signer.key")


def test_a_wrong_key_certificate_or_algorithm_is_named(folder):
    (folder / "text").write_text("no key")
    (folder / "empty.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", "signer.key", "-out", "locked.key", "-passout", "pass:secret"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    for certificate, key, algorithm, sentence in (
        ("missing.pem", "signer.key", None, "certificate .*missing.pem cannot be read"),
        ("empty.pem", "signer.key", None, "holds no certificate that can be read"),
        ("chain.pem", "text", None, "private key .* not in PEM"),
        ("chain.pem", "signer.pem", None, "private key .*signer.pem cannot be read"),
        ("chain.pem", "locked.key", None, "locked with a passphrase"),
        ("chain.pem", "root.key", None, "root.key does not belong to the first certificate in .*chain.pem"),
        ("chain.pem", "signer.key", "RSA", "algorithm 'RSA' is unknown. Choose one of ES256"),
        ("chain.pem", "signer.key", "PS256", "could not be signed: .*of the kind PS256"),
    ):
        with pytest.raises(OutputError, match=sentence):
            read_signer(folder / certificate, folder / key, algorithm)


def test_a_certificate_that_is_not_for_signing_is_refused_by_the_test_signature(folder):
    (folder / "server.ext").write_text("keyUsage=critical,keyEncipherment\nextendedKeyUsage=serverAuth\n")
    subprocess.run(
        ["openssl", "x509", "-req", "-in", "signer.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "9",
         "-extfile", "server.ext", "-out", "server.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "server_chain.pem").write_bytes((folder / "server.pem").read_bytes() + (folder / "root.pem").read_bytes())
    with pytest.raises(OutputError, match=r"docs/signing\.md"):
        read_signer(folder / "server_chain.pem", folder / "signer.key")


def test_a_key_is_never_shown(signer):
    assert "BEGIN" not in repr(signer) and "MII" not in repr(signer)


# ---- whole or not at all ---------------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_signed_is_not_written(tmp_path, signer, folder):
    useless = Signer(signer.chain, (folder / "root.key").read_bytes(), signer.algorithm)
    with pytest.raises(OutputError, match="could not be signed"):
        write(tmp_path, useless)
    assert list(tmp_path.iterdir()) == []
    before = write(tmp_path, signer).read_bytes()
    with pytest.raises(OutputError):
        write(tmp_path, useless)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [before]


def test_an_unsigned_picture_is_signed_later_and_a_signed_one_left_alone(tmp_path, signer):
    path = write(tmp_path, None, composite=True)
    signer.sign_file(path)
    state, once = manifest_state(path), path.read_bytes()
    assert (state.state, state.source_type) == ("valid", provenance.COMPOSITE)
    assert provenance.read_record(path) == {"seed": 7}
    signer.sign_file(path)
    assert path.read_bytes() == once and [one.name for one in tmp_path.iterdir()] == [path.name]


# ---- the environment, for ComfyUI ------------------------------------------------------------------------------------


def test_the_environment_names_the_signer(folder, monkeypatch):
    for name in (c2pa_signing.CERTIFICATE_VARIABLE, c2pa_signing.KEY_VARIABLE, c2pa_signing.ALGORITHM_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert c2pa_signing.signer_from_environment() is None
    monkeypatch.setenv("IDENTITY_LOCK_SIGN_CERTIFICATE", str(folder / "chain.pem"))
    with pytest.raises(OutputError, match="IDENTITY_LOCK_SIGN_KEY is not set"):
        c2pa_signing.signer_from_environment()
    monkeypatch.setenv("IDENTITY_LOCK_SIGN_KEY", str(folder / "signer.key"))
    signer = c2pa_signing.signer_from_environment()
    assert signer is not None and signer.algorithm == "ES256"


def test_without_the_package_one_sentence_says_what_to_do(tmp_path, folder, monkeypatch):
    path = write(tmp_path, None)
    monkeypatch.setitem(sys.modules, "c2pa", None)  # as where it is not installed
    assert not c2pa_signing.available()
    for what, error in (
        (lambda: read_signer(folder / "chain.pem", folder / "signer.key"), OutputError),
        (lambda: read_manifest(path), PhotoError),
        (lambda: manifest_state(path), PhotoError),
    ):
        with pytest.raises(error, match="pip install c2pa-python"):
            what()


def test_other_keys_work_with_their_own_algorithm(folder, tmp_path):
    for kind, options, algorithm in (
        ("EC", ["-pkeyopt", "ec_paramgen_curve:P-384"], "ES384"),
        ("RSA", ["-pkeyopt", "rsa_keygen_bits:2048"], "PS256"),
        ("ED25519", [], "ED25519"),
    ):
        for command in (
            ["genpkey", "-algorithm", kind, *options, "-out", "other.key"],
            ["req", "-new", "-key", "other.key", "-subj", "/O=Other/CN=Other", "-out", "other.csr"],
            ["x509", "-req", "-in", "other.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "9",
             "-extfile", "signer.ext", "-out", "other.pem"],
        ):  # fmt: skip
            subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
        both = [(folder / name).read_bytes() for name in ("other.pem", "root.pem")]
        (folder / "other_chain.pem").write_bytes(b"".join(both))
        signer = read_signer(folder / "other_chain.pem", folder / "other.key")
        assert signer.algorithm == algorithm
        assert manifest_state(write(tmp_path, signer)).state == "valid"


def test_a_signed_png_is_one_that_every_program_opens(tmp_path, signer):
    with Image.open(io.BytesIO(write(tmp_path, signer).read_bytes())) as picture:
        picture.verify()
