"""Optional C2PA signing (https://c2pa.org) of every written PNG: the user's own certificate, and no network.

How to make a certificate chain is told in docs/signing.md.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError, PhotoError
from .provenance import GENERATED
from .untrusted import FileRefused, open_regular

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

ALGORITHMS = ("ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "ED25519")
HOW_TO = "docs/signing.md tells how to make a chain that C2PA takes."

# Nothing may be looked up: no remote manifest, no revocation list, no time stamp server.
# A thumbnail in the manifest would be ten times its size, and one more copy of a face.
_SETTINGS: dict[str, dict[str, Any]] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}
CERTIFICATE_VARIABLE, KEY_VARIABLE = "IDENTITY_LOCK_SIGN_CERTIFICATE", "IDENTITY_LOCK_SIGN_KEY"
ALGORITHM_VARIABLE = "IDENTITY_LOCK_SIGN_ALGORITHM"

_MISSING = "the optional package c2pa-python, which is not installed here: pip install c2pa-python"
_BY_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EXPIRED, _UNTRUSTED = "signingCredential.expired", "signingCredential.untrusted"


def available() -> bool:
    """Whether c2pa-python is installed."""
    try:
        import c2pa  # noqa: F401
    except ImportError:
        return False
    return True


# ---- signing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signer:
    """A certificate with its chain and its private key, as PEM, that were found to work; made by `read_signer`."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    algorithm: str

    def sign(self, png: bytes, title: str, source_type: str) -> bytes:
        """A whole PNG with a signed C2PA manifest that states `source_type`, the picture's IPTC digital source type.

        The signature covers every other byte, the record and the XMP among them. No time stamp is fetched, so it counts
        as long as the certificate is valid. Raises OutputError.
        """
        import c2pa

        signed = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(getattr(c2pa.C2paSigningAlg, self.algorithm), self.chain, self.key, None)
            with (
                c2pa.Signer.from_info(info) as signer,
                c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
                c2pa.Builder(_manifest(title, source_type), context) as builder,
            ):
                builder.sign(signer, "image/png", io.BytesIO(png), signed)
        except c2pa.C2paError as error:
            raise OutputError(
                f"{title} could not be signed: {error}. Check that the certificate is meant for signing, and that the "
                f"key is of the kind {self.algorithm}; {HOW_TO}"
            ) from error
        return signed.getvalue()

    def sign_file(self, path: Path) -> None:
        """The same for a PNG on the disk that was written unsigned; whole or not at all. One that carries a manifest
        is left as it is. Raises OutputError, PhotoError."""
        from .atomic import replacing
        from .provenance import read_source_type

        if read_manifest(path) is not None:
            return
        signed = self.sign(path.read_bytes(), path.name, read_source_type(path) or GENERATED)
        with replacing(path) as temporary:
            temporary.write_bytes(signed)


def read_signer(certificate: str | Path, key: str | Path, algorithm: str | None = None) -> Signer:
    """The signer of two PEM files, after everything that can be wrong with them was looked for, in milliseconds.

    certificate: the signer's own certificate, and after it in the same file the one that issued it, and so on: a
    self-signed one, or one without its issuer, proves nothing to a reader and is refused. key: its private key, without
    a passphrase. algorithm: one of ALGORITHMS; None for the one that the key is made for. Raises OutputError.
    """
    if not available():
        raise OutputError(f"Signing needs {_MISSING}.")
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise OutputError(f"The signing algorithm {algorithm!r} is unknown. Choose one of {', '.join(ALGORITHMS)}.")
    chain, private_key = _read_pem(certificate, "signing certificate"), _read_pem(key, "signing private key")
    _check_chain(chain, str(certificate))
    fitting = _check_key(private_key, str(key), chain, str(certificate))
    signer = Signer(chain, private_key, algorithm or fitting)
    _try(signer, str(certificate))
    return signer


def signer_from_environment() -> Signer | None:
    """What IDENTITY_LOCK_SIGN_CERTIFICATE and IDENTITY_LOCK_SIGN_KEY name, read anew each time; None where neither is
    set. For ComfyUI: graphs are shared, and no graph may name a key. Raises OutputError."""
    certificate, key = (os.environ.get(name, "").strip() for name in (CERTIFICATE_VARIABLE, KEY_VARIABLE))
    if not certificate and not key:
        return None
    if not certificate or not key:
        missing = KEY_VARIABLE if certificate else CERTIFICATE_VARIABLE
        raise OutputError(
            f"Signing takes both a certificate chain and its key, and {missing} is not set; set both, or neither."
        )
    return read_signer(certificate, key, os.environ.get(ALGORITHM_VARIABLE, "").strip() or None)


def _check_chain(chain: bytes, name: str) -> None:
    found = _certificates(chain, name)
    now = datetime.now(UTC)
    for one in found:
        subject = one.subject.rfc4514_string()
        if one.not_valid_after_utc < now:
            raise OutputError(
                f"The certificate of {subject} in {name} expired on {one.not_valid_after_utc:%d %B %Y}; renew it."
            )
        if one.not_valid_before_utc > now:
            raise OutputError(
                f"The certificate of {subject} in {name} is valid from {one.not_valid_before_utc:%d %B %Y} on, and "
                "this machine's clock is before that; set the clock right, or wait."
            )
    if _issued(found[0], found[0]):
        raise OutputError(
            f"The signing certificate in {name} is self-signed, and C2PA wants one that another certificate issued. "
            f"{HOW_TO}"
        )
    for one, issuer in zip(found, [*found[1:], None], strict=True):
        if issuer is None and _issued(one, one):
            return  # the root; it may also be left out, as long as there is an issuer between
        if issuer is not None and not _issued(one, issuer):
            raise OutputError(
                f"In {name}, the certificate of {one.subject.rfc4514_string()} was not issued by the one after it "
                f"({issuer.subject.rfc4514_string()}). Begin with the signer's own, each followed by its issuer."
            )
    if len(found) == 1:
        raise OutputError(
            f"{name} holds the signer's certificate alone, without the one that issued it "
            f"({found[0].issuer.rfc4514_string()}). Put that one, and those above it, into the same file after it: "
            "cat signer.pem root.pem > chain.pem."
        )


def _certificates(chain: bytes, name: str) -> list[Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise OutputError(
            f"The signing certificate {name} holds no certificate that can be read ({error}). {HOW_TO}"
        ) from error


def _issued(one: Certificate, issuer: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_key(key: bytes, key_name: str, chain: bytes, chain_name: str) -> str:
    """The algorithm that the key is made for."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise OutputError(
            f"The signing private key {key_name} is locked with a passphrase, and nobody can be asked for it during a "
            "long run. Give a file without one, readable by you alone: openssl pkcs8 -topk8 -nocrypt."
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OutputError(f"The signing private key {key_name} cannot be read ({error}). {HOW_TO}") from error
    if private.public_key() != _certificates(chain, chain_name)[0].public_key():
        raise OutputError(
            f"The signing private key {key_name} does not belong to the first certificate in {chain_name}. "
            "Give the key that the certificate was asked for with."
        )
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return _BY_CURVE.get(private.curve.name, "ES256")
    return "PS256" if isinstance(private, rsa.RSAPrivateKey) else "ED25519"


def _try(signer: Signer, name: str) -> None:
    """Signs a picture of one colour and reads it back: what the library refuses is refused before the long work."""
    from PIL import Image

    blank = io.BytesIO()
    Image.new("RGB", (16, 16)).save(blank, "PNG")
    try:
        signed = signer.sign(blank.getvalue(), "a test picture", GENERATED)
        state = judge_manifest(_read_store(io.BytesIO(signed), "a test picture"))
    except PhotoError as error:
        raise OutputError(f"A test signature with {name} cannot be read back: {error} {HOW_TO}") from error
    if state.state != "valid":
        raise OutputError(f"A test signature with {name} does not hold: {', '.join(state.problems)}. {HOW_TO}")


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
        raise OutputError(f"The {what} {path} cannot be read: {error.strerror or error}.") from error
    if b"-----BEGIN " not in content:
        raise OutputError(f"The {what} {path} is not in PEM format.")
    return content


# ---- reading ---------------------------------------------------------------------------------------------------------


class RemoteManifestError(PhotoError):
    """The picture only names a manifest on the network."""


@dataclass(frozen=True)
class ManifestState:
    """What a picture's C2PA manifest is worth here.

    state: "none", "remote" (the picture names one on the network, which is never fetched), "valid" (the signature fits
    every byte), "expired" (it does, but its certificate is over) or "broken". trusted: whether the chain leads to the
    root that the reader named; None where none was named. source_type: that the manifest states, as its full
    address. problems: the library's words.
    """

    state: str
    signed_by: str = ""
    issuer: str = ""
    trusted: bool | None = None
    source_type: str | None = None
    problems: tuple[str, ...] = ()


def read_manifest(path: str | Path, root: str | None = None) -> dict[str, Any] | None:
    """The C2PA manifest store of the picture at `path` as a dictionary, or None where it has none.

    `validation_state` in it says "Valid" where the signature fits the pixels, and "Trusted" where it also leads to
    `root` (PEM); without a root, whose certificate it is, is not judged. Raises PhotoError where it cannot be read, or
    c2pa-python is missing.
    """
    try:
        with open_regular(path) as stream:
            return _read_store(stream, str(path), root)
    except (FileRefused, OSError) as error:
        raise PhotoError(f"{path} cannot be read: {error}. Give the path of a picture.") from error


def manifest_state(path: str | Path, trusted_root: str | Path | None = None) -> ManifestState:
    """The same, judged; a manifest that cannot be read is broken. trusted_root: a PEM file with the certificates that
    the reader trusts, mostly one. Raises PhotoError where c2pa-python is missing, OutputError where it holds none."""
    if not available():
        raise PhotoError(f"Reading C2PA manifests needs {_MISSING}.")
    root = None if trusted_root is None else _read_root(trusted_root)
    try:
        return judge_manifest(read_manifest(path, root), judged=root is not None)
    except RemoteManifestError as error:
        return ManifestState("remote", problems=(str(error),))
    except PhotoError as error:
        return ManifestState("broken", problems=(str(error),))


def _read_root(path: str | Path) -> str:
    content = _read_pem(path, "root certificate")
    try:
        _certificates(content, str(path))
    except OutputError as error:
        raise OutputError(
            f"The root certificate {path} cannot be read as one; give the .pem file of a root."
        ) from error
    return content.decode("ascii", "replace")


def judge_manifest(store: dict[str, Any] | None, *, judged: bool = False) -> ManifestState:
    """store: as `read_manifest` gives it. judged: a root was given with it."""
    if store is None:
        return ManifestState("none")
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = manifest.get("signature_info") or {}
    failures = store.get("validation_status") or []
    codes = {str(failure.get("code")) for failure in failures}
    expired = _EXPIRED in codes and codes <= {_EXPIRED, _UNTRUSTED}  # no root trusts one that is over
    verdict = str(store.get("validation_state"))
    good = verdict in ("Valid", "Trusted")
    return ManifestState(
        state="valid" if good else "expired" if expired else "broken",
        signed_by=str(signature.get("common_name") or ""),
        issuer=str(signature.get("issuer") or ""),
        trusted=verdict == "Trusted" if judged and good else None,
        source_type=_stated(manifest),
        problems=() if good else tuple(f"{one.get('code')}: {one.get('explanation')}" for one in failures),
    )


def _trusting(root: str) -> dict[str, Any]:
    return {**_SETTINGS, "verify": {**_SETTINGS["verify"], "verify_trust": True}, "trust": {"trust_anchors": root}}


def _stated(manifest: dict[str, Any]) -> str | None:
    for assertion in manifest.get("assertions", []):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in assertion.get("data", {}).get("actions", []):
                if action.get("digitalSourceType"):
                    return str(action["digitalSourceType"])
    return None


def _read_store(stream: Any, name: str, root: str | None = None) -> dict[str, Any] | None:
    try:
        import c2pa
    except ImportError as error:
        raise PhotoError(f"Reading C2PA manifests needs {_MISSING}.") from error
    try:
        settings = c2pa.Settings.from_dict(_SETTINGS if root is None else _trusting(root))
        with c2pa.Context(settings) as context, c2pa.Reader("image/png", stream, context=context) as reader:
            return dict(json.loads(reader.json()))
    except c2pa.C2paError as error:
        if "ManifestNotFound" in str(error) or type(error).__name__.endswith("ManifestNotFound"):
            return None
        if str(error).startswith("Remote"):
            raise RemoteManifestError(
                f"{name} names a C2PA manifest on the network, and nothing is fetched from there."
            ) from error
        reason = str(error).rstrip(".")
        raise PhotoError(
            f"The C2PA manifest of {name} cannot be read: {reason}. Use the file as it was made."
        ) from error
