"""The bot's ssh key and its signatures.

Owns the ed25519 key pair under the git common dir. It makes signatures, in OpenSSH's format (PROTOCOL.sshsig) for git
and in DSSE envelopes for statements; what is signed, and for which purpose, is the caller's matter. An ssh signature
covers bytes that begin with `SSHSIG`, an envelope's covers `DSSEv1`: neither can be passed off as the other. It never
reads a user's key and never asks an agent.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from pantheon.errors import RepositoryError
from pantheon.signers import armour, fingerprint, render_envelope

PRINCIPAL = "pantheon@localhost"
KEY_NAME = "pantheon_ed25519"
ALLOWED_SIGNERS = "allowed_signers"
REVOKED_KEYS = "revoked_keys"


class Signer:
    """An ed25519 ssh key. `public` is its one-line form, `allowed_signers` the file git verifies against."""

    def __init__(self, key: Ed25519PrivateKey, directory: Path) -> None:
        self._key = key
        self.directory = directory
        self.allowed_signers = directory.parent / ALLOWED_SIGNERS
        self.public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
        self.blob = base64.b64decode(self.public.split()[1])
        self.fingerprint = fingerprint(self.blob)
        self._envelopes = CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=self.fingerprint))

    @classmethod
    def load_or_create(cls, directory: Path) -> Signer:
        """The key in `directory` (0700, key 0600), made when missing; two creators end with one key."""
        path = directory / KEY_NAME
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_mode & 0o077:  # asked first: at night this is on a read-only mount
                directory.chmod(0o700)
            made = not os.path.lexists(path)
            if made:
                _create_key(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    os.fchmod(file.fileno(), 0o600)
                key = load_ssh_private_key(file.read(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError("not an ed25519 key")
            signer = cls(key, directory)
            _write_once(directory / f"{KEY_NAME}.pub", f"{signer.public} {PRINCIPAL}\n")
            _write_once(signer.allowed_signers, "")
            if made or not signer.allowed_signers.stat().st_size:
                trust_key(signer.allowed_signers, signer.public)
            _write_once(directory.parent / REVOKED_KEYS, "")  # git complains when the file it is told of is missing
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise RepositoryError(
                "cannot use the bot's signing key", str(path), str(error), "move the file away; a new key is made"
            ) from error
        return signer

    def sign(self, payload: bytes, namespace: str = "git") -> str:
        """The armoured signature of `payload` (OpenSSH PROTOCOL.sshsig, sha512); `namespace` is its purpose."""
        space = _string(namespace.encode("ascii"))
        body = space + _string(b"") + _string(b"sha512")
        raw = self._key.sign(b"SSHSIG" + body + _string(hashlib.sha512(payload).digest()))
        blob = b"SSHSIG" + struct.pack(">I", 1) + _string(self.blob) + body
        return armour(blob + _string(_string(b"ssh-ed25519") + _string(raw)))

    def envelope(self, payload: bytes, payload_type: str) -> str:
        """A DSSE envelope around `payload`: a line of JSON without its end, the key by its fingerprint."""
        envelope = Envelope(payload, payload_type, {})
        envelope.sign(self._envelopes)
        return render_envelope(envelope)


def trust_key(path: Path, public: str, since: str = "") -> None:
    """Add a line for a key of ours to allowed_signers, unless one names it. `since` is a time of OpenSSH's."""
    held = path.read_bytes()
    if public.split()[1].encode("ascii") in held.split():
        return
    valid = f',valid-after="{since}"' if since else ""
    line = f'{PRINCIPAL} namespaces="git"{valid} {public}\n'
    with path.open("ab") as file:
        file.write(b"\n" * bool(held and not held.endswith(b"\n")) + line.encode("ascii"))


def replace_key(directory: Path, announce: Callable[[str], None]) -> None:
    """Put a new key where the old one is, whose private half is kept nowhere. `announce` gets the new public key before
    anything can be signed with it."""
    path = directory / KEY_NAME
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        key = _write_key(scratch)
        announce(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii"))
        (directory / f"{KEY_NAME}.pub").unlink(missing_ok=True)  # made again from the key
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _create_key(path: Path) -> None:
    """Write a new key beside `path` and link it into place, so that a key once there is never replaced."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        _write_key(scratch)
        with suppress(FileExistsError):  # another process was first: its key is the key
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _write_key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    return key


def _write_once(path: Path, text: str) -> None:
    """Create `path` whole or not at all; a file that is there (a person may have added keys) is left alone."""
    if os.path.lexists(path):
        return
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    scratch.write_text(text, encoding="ascii")
    scratch.rename(path)
