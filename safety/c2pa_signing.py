"""Optional C2PA signing (https://c2pa.org) of a written PNG: the user's own certificate, and no network."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError, PhotoError
from .provenance import GENERATED, read_source_type

ALGORITHMS = ("ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "ED25519")

# Nothing may be looked up: no remote manifest, no revocation list, no time stamp server.
_SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}}


def available() -> bool:
    """Whether c2pa-python is installed."""
    try:
        import c2pa  # noqa: F401
    except ImportError:
        return False
    return True


def sign_c2pa(path: str | Path, certificate: str | Path, key: str | Path, *, algorithm: str = "ES256") -> None:
    """Add a signed C2PA manifest to the PNG at `path`, which `write_png` wrote; whole or not at all.

    `certificate` is a PEM file with the signer's certificate and its chain (C2PA wants one that a root issued: a
    self-signed one is refused), `key` its PKCS#8 private key in PEM, and `algorithm` the kind of key. The manifest
    states the IPTC digital source type that the picture already states. No time stamp is fetched, so the signature
    counts as long as the certificate is valid.

    Raises OutputError where c2pa-python is missing, the certificate or key cannot be used, or the file not be written.
    """
    try:
        import c2pa
    except ImportError as error:
        raise OutputError("Signing needs the optional package c2pa-python. Install it, or turn signing off.") from error
    path = Path(path)
    if algorithm not in ALGORITHMS:
        raise OutputError(f"The signing algorithm {algorithm!r} is unknown. Choose one of {', '.join(ALGORITHMS)}.")
    source_type = read_source_type(path) or GENERATED
    chain, private_key = _read_pem(certificate, "certificate"), _read_pem(key, "private key")
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(8)}.part.png")
    try:
        info = c2pa.C2paSignerInfo(getattr(c2pa.C2paSigningAlg, algorithm), chain, private_key, None)
        settings = c2pa.Settings.from_dict(_SETTINGS)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context(settings) as context,
            c2pa.Builder(_manifest(path.name, source_type), context) as builder,
        ):
            builder.sign_file(str(path), str(temporary), signer)
        temporary.replace(path)
    except c2pa.C2paError as error:
        raise OutputError(
            f"{path} could not be signed: {error}. "
            f"Check that the certificate chain, the key and {algorithm} belong together."
        ) from error
    except OSError as error:
        raise OutputError(f"{path} could not be signed: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """The C2PA manifest store of the picture at `path` as a dictionary, or None where it has none.

    `validation_state` in it says "Valid" where the signature fits the pixels; whose certificate it is, is not judged.
    """
    try:
        import c2pa
    except ImportError as error:
        raise PhotoError("Reading C2PA manifests needs the optional package c2pa-python.") from error
    try:
        settings = c2pa.Settings.from_dict(_SETTINGS)
        with c2pa.Context(settings) as context, c2pa.Reader(str(path), context=context) as reader:
            return json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in str(error) or type(error).__name__ == "ManifestNotFound":
            return None
        raise PhotoError(f"The C2PA manifest of {path} cannot be read: {error}") from error


def _manifest(title: str, source_type: str) -> dict[str, Any]:
    return {
        "claim_generator_info": [{"name": "Identity Lock"}],
        "title": title,
        "format": "image/png",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": source_type}]},
            }
        ],
    }


def _read_pem(path: str | Path, what: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise OutputError(f"The signing {what} {path} cannot be read: {error.strerror or error}.") from error
    if b"-----BEGIN " not in content:
        raise OutputError(f"The signing {what} {path} is not in PEM format.")
    return content
