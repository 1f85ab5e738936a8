"""Who may sign for Pantheon, and whether a signature holds: bytes in, a verdict out.

Owns the reading of OpenSSH's allowed_signers and of a list of revoked keys, of ssh signatures (PROTOCOL.sshsig) and of
DSSE envelopes. It reads no file and makes no signature; the keys that sign are signing.py's, which this never imports.
The two kinds cannot stand in for each other: what an ssh signature covers begins with `SSHSIG`, an envelope's with
`DSSEv1`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import SSlibKey

NAMESPACE = "git"  # of a commit's signature; the keys trusted for it are trusted for envelopes too
HEAD, TAIL = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_KIND = b"ssh-ed25519"
_OPTION = re.compile(r'([A-Za-z-]+)(?:="([^"]*)")?(?:,|\Z)')
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?(Z?)", re.ASCII)


class SignatureFault(Exception):
    """A signature that does not hold. `kind` says whether its key or its bytes are at fault."""

    def __init__(self, kind: Literal["key", "signature"], why: str) -> None:
        self.kind, self.why = kind, why
        super().__init__(why)


@dataclass(frozen=True)
class KeyLine:
    """One line of allowed_signers. `blob` is the key as ssh writes it on the wire, times are in seconds."""

    blob: bytes
    namespaces: tuple[str, ...] = ()  # patterns; none: every namespace
    after: int | None = None
    before: int | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.blob)

    def refusal(self, namespace: str, when: int) -> str:
        """Why this line does not allow a signature made then for that purpose; "" when it does."""
        if self.namespaces and not _matches(self.namespaces, namespace):
            return f"not allowed for the purpose {namespace!r}, only for {','.join(self.namespaces)}"
        if self.after is not None and when < self.after:
            return f"not valid before {moment(self.after)}, signed at {moment(when)}"
        if self.before is not None and when > self.before:
            return f"not valid after {moment(self.before)}, signed at {moment(when)}"
        return ""


@dataclass(frozen=True)
class Trust:
    """The keys of a trust root and those that were revoked, by blob."""

    keys: tuple[KeyLine, ...]
    revoked: frozenset[bytes]

    def require(self, blob: bytes, namespace: str, when: int) -> str:
        """The fingerprint of a key that may sign. SignatureFault says why it may not: unknown, revoked, out of time."""
        name = fingerprint(blob)
        if blob in self.revoked:
            raise SignatureFault("key", f"{name} is revoked")
        refusals = [line.refusal(namespace, when) for line in self.keys if line.blob == blob]
        if not refusals:
            raise SignatureFault("key", f"{name} is not in the trust root")
        if all(refusals):
            raise SignatureFault("key", f"{name} is {refusals[0]}")
        return name


def fingerprint(blob: bytes) -> str:
    """The name ssh gives a key: SHA256:..."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def moment(seconds: int) -> str:
    """A time as people read it, in UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


# --- the trust root ---------------------------------------------------------------------------------------------------


def parse_allowed(data: bytes, where: str = "allowed_signers") -> tuple[KeyLine, ...]:
    """The keys of an allowed_signers file. Certificate authorities are left out: no certificate signs here.

    ValueError names the line that cannot be read.
    """
    found = []
    for number, text in _lines(data, where):
        try:
            _, rest = split_word(text)
            options: dict[str, str] = {}
            if not rest.startswith(("ssh-", "ecdsa-", "sk-")):
                head, rest = split_word(rest)
                options = _options(head)
            line = KeyLine(
                blob=_key(rest),
                namespaces=tuple(options["namespaces"].split(",")) if "namespaces" in options else (),
                after=_seconds(options["valid-after"]) if "valid-after" in options else None,
                before=_seconds(options["valid-before"]) if "valid-before" in options else None,
            )
        except ValueError as error:
            raise ValueError(f"{where}:{number}: {error}") from error
        if "cert-authority" not in options:
            found.append(line)
    return tuple(found)


def parse_revoked(data: bytes, where: str = "revoked_keys") -> frozenset[bytes]:
    """The keys of a plain list, one public key a line. ValueError names the line: a list half read would trust."""
    if data.startswith(b"SSHKRL\n"):
        raise ValueError(f"{where}: a key revocation list in OpenSSH's binary form; list the public keys as text")
    found = set()
    for number, text in _lines(data, where):
        try:
            found.add(_key(text))
        except ValueError as error:
            raise ValueError(f"{where}:{number}: {error}") from error
    return frozenset(found)


def _lines(data: bytes, where: str) -> list[tuple[int, str]]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8") from error
    return [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#")]


def split_word(text: str) -> tuple[str, str]:
    """The first word, in which blanks between double quotes do not count, and the rest."""
    quoted = False
    for position, char in enumerate(text):
        quoted ^= char == '"'
        if char in " \t" and not quoted:
            return text[:position], text[position:].strip()
    raise ValueError("a key is missing")


def _options(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _OPTION.match(text, position)
        name = match[1].lower() if match else ""
        if match is None or name not in ("cert-authority", "namespaces", "valid-after", "valid-before"):
            raise ValueError(f"an option that is not known: {text[position:][:40]!r}")
        found[name] = match[2] or ""
        position = match.end()
    return found


def _key(text: str) -> bytes:
    words = text.split()
    if len(words) < 2:
        raise ValueError("a key is missing")
    try:
        blob = base64.b64decode(words[1], validate=True)
        kind, _ = _take(blob)
    except (binascii.Error, struct.error) as error:
        raise ValueError(f"not a public key: {error}") from error
    if kind != words[0].encode():
        raise ValueError(f"the key says {kind!r} of itself, its line {words[0]!r}")
    return blob


def _seconds(text: str) -> int:
    """A time of OpenSSH's: digits of year to second; local time without the Z."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time: {text!r}")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        exact = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        return int(exact.timestamp() if match[7] else time.mktime(exact.timetuple()))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a time: {text!r}") from error


def _matches(patterns: Sequence[str], name: str) -> bool:
    """OpenSSH's pattern list: `*` and `?` are wild, a pattern after `!` excludes."""
    allowed = False
    for pattern in patterns:
        wild = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(wild, name):
            if pattern.startswith("!"):
                return False
            allowed = True
    return allowed


# --- ssh signatures ---------------------------------------------------------------------------------------------------


def _take(data: bytes) -> tuple[bytes, bytes]:
    """One length-prefixed string and what follows it."""
    (size,) = struct.unpack_from(">I", data)
    if size > len(data) - 4:
        raise ValueError(f"{size} bytes are announced, {len(data) - 4} are there")
    return data[4 : 4 + size], data[4 + size :]


def check_ssh(armoured: str, payload: bytes, namespace: str, when: int, trust: Trust) -> str:
    """The fingerprint of the trusted key that made this signature of `payload`. SignatureFault says what is wrong."""
    try:
        blob, covered, raw = _parse_ssh(armoured, payload, namespace)
    except (ValueError, struct.error) as error:
        raise SignatureFault("signature", f"not an ssh signature of ours: {error}") from error
    name = trust.require(blob, namespace, when)
    if not _holds(_raw_key(blob), raw, covered):
        raise SignatureFault("signature", f"the bytes that were signed are others (key {name})")
    return name


def _parse_ssh(armoured: str, payload: bytes, namespace: str) -> tuple[bytes, bytes, bytes]:
    """(key, the bytes the signature covers, the raw signature). Every byte of the armour counts."""
    lines = armoured.split("\n")
    if lines[:1] != [HEAD] or lines[-2:] != [TAIL, ""]:
        raise ValueError("its first or last line")
    data = base64.b64decode("".join(lines[1:-2]), validate=True)
    if armour(data) != armoured:
        raise ValueError("its base64 is not in the one form")
    if data[:6] != b"SSHSIG" or data[6:10] != struct.pack(">I", 1):
        raise ValueError("its magic or version")
    blob, rest = _take(data[10:])
    space, rest = _take(rest)
    reserved, rest = _take(rest)
    algorithm, rest = _take(rest)
    signature, rest = _take(rest)
    if rest or reserved:
        raise ValueError("it holds more than a signature")
    if space.decode("utf-8", "replace") != namespace:
        raise ValueError(f"its purpose is {space!r}, not {namespace!r}")
    if algorithm not in (b"sha512", b"sha256"):
        raise ValueError(f"its hash is {algorithm!r}")
    digest = hashlib.new(algorithm.decode("ascii"), payload).digest()
    covered = b"SSHSIG" + b"".join(struct.pack(">I", len(x)) + x for x in (space, reserved, algorithm, digest))
    kind, rest = _take(signature)
    raw, rest = _take(rest)
    if kind != _KIND or rest or len(raw) != 64:
        raise ValueError("it is not one of ed25519")
    _raw_key(blob)
    return blob, covered, raw


def armour(data: bytes) -> str:
    """An ssh signature as the text that a commit carries."""
    text = base64.b64encode(data).decode("ascii")
    return "\n".join([HEAD, *(text[start : start + 70] for start in range(0, len(text), 70)), TAIL, ""])


def _raw_key(blob: bytes) -> bytes:
    kind, rest = _take(blob)
    raw, rest = _take(rest)
    if kind != _KIND or rest or len(raw) != 32:
        raise ValueError("its key is not one of ed25519")
    return raw


@lru_cache(maxsize=8192)
def _holds(key: bytes, signature: bytes, data: bytes) -> bool:
    """Pure, hence remembered: notes name the same commits again and again."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except InvalidSignature:
        return False
    return True


# --- DSSE envelopes ---------------------------------------------------------------------------------------------------


def render_envelope(envelope: Envelope) -> str:
    """An envelope's one form: a line of JSON, sorted keys."""
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=1024)
def open_envelope(text: str, payload_type: str, trust: Trust) -> tuple[bytes, bytes]:
    """(payload, the key that signed it): a key of the trust root's that is not revoked. When the key was valid the
    caller must ask, who knows the time from the payload. SignatureFault says what is wrong."""
    try:
        envelope = Envelope.from_dict(json.loads(text))
        form = render_envelope(envelope)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SignatureFault("signature", f"not a DSSE envelope: {type(error).__name__}: {error}") from error
    except SecureSystemsError as error:
        raise SignatureFault("signature", f"not a DSSE envelope: {error}") from error
    if form != text:
        raise SignatureFault("signature", f"its JSON is not in the one form, from byte {_first_difference(form, text)}")
    if envelope.payload_type != payload_type:
        raise SignatureFault("signature", f"its payload type is {envelope.payload_type!r}, not {payload_type!r}")
    if len(envelope.signatures) != 1:
        raise SignatureFault("signature", f"it has {len(envelope.signatures)} signatures, not one")
    (named,) = envelope.signatures
    known = {fingerprint(blob): blob for blob in (*(line.blob for line in trust.keys), *trust.revoked)}
    if named not in known:
        raise SignatureFault("key", f"{named} is not in the trust root")
    if known[named] in trust.revoked:
        raise SignatureFault("key", f"{named} is revoked")
    try:
        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(_raw_key(known[named])), keyid=named)
        envelope.verify([key], 1)
    except (SecureSystemsError, ValueError, TypeError) as error:
        raise SignatureFault("signature", f"the bytes that were signed are others (key {named})") from error
    return envelope.payload, known[named]


def _first_difference(one: str, two: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
