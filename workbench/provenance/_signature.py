"""Signatures by the OpenSSF's model-signing, with keys in files: nothing goes over the network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import uuid
from pathlib import Path
from typing import Any

from workbench.errors import ExportError, MissingDependencyError
from workbench.provenance._checksums import SIGNATURE, shown
from workbench.workspace import writing

PASSWORD_VARIABLE = "WORKBENCH_SIGN_PASSWORD"  # not a flag: those are seen by every user of the machine


def sign(folder: Path, key: Path) -> None:
    """Writes the signature of every other file of a package, in place of one that is there.

    Args:
        folder: The package.
        key: Private key (PEM, elliptic curve); its password, if it has one, comes from `$WORKBENCH_SIGN_PASSWORD`.

    Raises:
        ExportError: The key cannot be used, or lies in the package.
        MissingDependencyError: model-signing is not installed.
    """
    config = _signer(key)
    if key.resolve().is_relative_to(folder.resolve()):
        raise ExportError(f"The private key {key} lies in the package.", "Move it: whoever has it can sign.")
    final = folder / SIGNATURE
    # Beside the package until it is whole, since the signature is of everything in it.
    temporary = folder.with_name(f"{os.getpid()}-{uuid.uuid4().hex}.sig")
    try:
        with writing(final):
            config.set_hashing_config(_hashing(folder)).sign(folder, temporary)
            final.parent.mkdir(exist_ok=True)
            temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def check_key(key: Path) -> str:
    """Makes sure that a private key can be used, before anything else is begun.

    Returns:
        SHA-256 of its public key.

    Raises:
        ExportError: It cannot be used.
        MissingDependencyError: model-signing is not installed.
    """
    _signer(key)
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), _password())
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(private.public_key().public_bytes(*form)).hexdigest()


def check_signature(folder: Path, key: Path) -> str:
    """Why a package's signature does not hold, in words that follow its name; empty if it holds.

    Args:
        folder: The package.
        key: Public key (PEM, elliptic curve).

    Raises:
        ExportError: The key cannot be used, or the package is an archive.
        MissingDependencyError: model-signing is not installed.
    """
    require_signing()
    from model_signing import verifying

    if not folder.is_dir():
        raise ExportError("The signature of an archive cannot be checked.", "Unpack it, and verify the folder.")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise _bad_key(key, error, "name the public one, not the one that signs") from None
    try:
        config.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # whatever goes wrong on the way, the signature was not found to hold
        said = " ".join(str(error).split())
        if said.startswith("Signature mismatch"):
            return "is of other files than these"
        return f"does not hold: it was made with another key or is damaged{f' ({shown(said[:200])})' if said else ''}"
    return ""


def require_signing() -> None:
    """Says what to install before anything is begun.

    Raises:
        MissingDependencyError: model-signing is not installed.
    """
    if missing := [name for name in ("model_signing", "OpenSSL") if importlib.util.find_spec(name) is None]:
        raise MissingDependencyError(
            f"Signatures need {', '.join(missing)}, which this environment lacks.",
            "Install it: pip install 'deployment-workbench[provenance]'.",
        )


def _signer(key: Path) -> Any:
    """What signs with a private key."""
    require_signing()
    from model_signing import signing

    try:
        return signing.Config().use_elliptic_key_signer(private_key=key, password=_password())
    except Exception as error:  # whatever the library and those below it say of a key
        raise _bad_key(key, error, f"a password is read from ${PASSWORD_VARIABLE}") from None


def _password() -> bytes | None:
    """As bytes, which is what the library that reads keys takes; model-signing hands it on as it is."""
    given = os.environ.get(PASSWORD_VARIABLE)
    return given.encode() if given else None


def _hashing(folder: Path) -> Any:
    """Every file but the signature; by default the library passes over what belongs to git."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _bad_key(key: Path, error: Exception, hint: str) -> ExportError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    end = "" if reason.endswith(("?", "!")) else "."
    return ExportError(
        f"The key {key} cannot be used: {reason}{end}", f"It must be an elliptic-curve key in a PEM file; {hint}."
    )
