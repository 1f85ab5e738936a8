"""The bot's ssh key and its signatures.

Owns the ed25519 key pair under the git common dir and the OpenSSH signature format (PROTOCOL.sshsig). It makes
signatures; what is signed, and for which purpose (the namespace), is the caller's matter. Never reads a user's key.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
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

from pantheon.errors import RepositoryError

PRINCIPAL = "pantheon@localhost"
KEY_NAME = "pantheon_ed25519"
ALLOWED_SIGNERS = "allowed_signers"


class Signer:
    """An ed25519 ssh key. `public` is its one-line form, `allowed_signers` the file git verifies against."""

    def __init__(self, key: Ed25519PrivateKey, directory: Path) -> None:
        self._key = key
        self.directory = directory
        self.allowed_signers = directory.parent / ALLOWED_SIGNERS
        self.public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")

    @classmethod
    def load_or_create(cls, directory: Path) -> Signer:
        """The key in `directory` (0700, key 0600), made when missing; two creators end with one key."""
        path = directory / KEY_NAME
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            if not os.path.lexists(path):
                _create_key(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                os.fchmod(file.fileno(), 0o600)
                key = load_ssh_private_key(file.read(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError("not an ed25519 key")
            signer = cls(key, directory)
            _write_once(directory / f"{KEY_NAME}.pub", f"{signer.public} {PRINCIPAL}\n")
            _write_once(signer.allowed_signers, f'{PRINCIPAL} namespaces="git" {signer.public}\n')
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
        blob = b"SSHSIG" + struct.pack(">I", 1) + _string(base64.b64decode(self.public.split()[1])) + body
        blob += _string(_string(b"ssh-ed25519") + _string(raw))
        text = base64.b64encode(blob).decode("ascii")
        lines = [text[start : start + 70] for start in range(0, len(text), 70)]
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _create_key(path: Path) -> None:
    """Write a new key beside `path` and link it into place, so that a key once there is never replaced."""
    key = Ed25519PrivateKey.generate()
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its key is the key
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _write_once(path: Path, text: str) -> None:
    """Create `path` whole or not at all; a file that is there (a person may have added keys) is left alone."""
    if os.path.lexists(path):
        return
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    scratch.write_text(text, encoding="ascii")
    scratch.rename(path)
