"""The bot's keys over time: listed, rotated, revoked, published for other clones and accepted there.

Owns `refs/pantheon/keys` and the changes to the trust root's two files, `allowed_signers` and `revoked_keys`, both in
OpenSSH's form, so that `git verify-commit` reads the same. A key is trusted because this machine made it or a person
accepted it here; the tree and the ref only show keys, they never add one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Record
from pantheon.signers import KeyLine, fingerprint, moment, parse_allowed, parse_revoked, split_word
from pantheon.signing import ALLOWED_SIGNERS, KEY_NAME, PRINCIPAL, REVOKED_KEYS, replace_key, trust_key

KEYS = "refs/pantheon/keys"
FILE = 0o100644


class KeyInfo(Record):
    """One key as a person sees it; times in UTC. `trusted`: it is in this clone's trust root."""

    fingerprint: str
    since: str | None = None
    until: str | None = None
    revoked: bool = False
    trusted: bool = False
    published: bool = False
    in_use: bool = False


def directory(repo: Repo) -> Path:
    """Where the bot's private key is."""
    return repo.common_dir / "pantheon" / "keys"


def _root(repo: Repo) -> tuple[Path, Path]:
    return repo.common_dir / "pantheon" / ALLOWED_SIGNERS, repo.common_dir / "pantheon" / REVOKED_KEYS


def _parsed(allowed: bytes, revoked: bytes, where: str) -> tuple[tuple[KeyLine, ...], frozenset[bytes]]:
    try:
        return parse_allowed(allowed, f"{where}/{ALLOWED_SIGNERS}"), parse_revoked(revoked, f"{where}/{REVOKED_KEYS}")
    except ValueError as error:
        raise RepositoryError("cannot read the keys", where, str(error)) from error


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def listed(repo: Repo) -> tuple[KeyInfo, ...]:
    """Every key of the trust root, then those that are only published. Makes no key."""
    allowed, revoked = _root(repo)
    lines, gone = _parsed(_read(allowed), _read(revoked), str(allowed.parent))
    shown, shown_gone = published(repo)
    public = directory(repo) / f"{KEY_NAME}.pub"
    used = public.read_text("ascii", "replace").split()[1:2] if public.is_file() else []
    blobs = list(dict.fromkeys([*(line.blob for line in lines), *gone, *(line.blob for line in shown)]))
    found = []
    for blob in blobs:
        line = next((one for one in (*lines, *shown) if one.blob == blob), None)
        found.append(
            KeyInfo(
                fingerprint=fingerprint(blob),
                since=moment(line.after) if line and line.after is not None else None,
                until=moment(line.before) if line and line.before is not None else None,
                revoked=blob in gone or blob in shown_gone,
                trusted=any(one.blob == blob for one in lines),
                published=any(one.blob == blob for one in shown),
                in_use=bool(used) and _text(blob) == used[0],
            )
        )
    return tuple(found)


def _text(blob: bytes) -> str:
    """A key's base64, as every file that names it writes it."""
    return base64.b64encode(blob).decode("ascii")


# --- publish and accept -----------------------------------------------------------------------------------------------


def published(repo: Repo) -> tuple[tuple[KeyLine, ...], frozenset[bytes]]:
    """The keys and the revocations that `refs/pantheon/keys` shows. Showing is all it does."""
    tip = repo.ref(KEYS)
    if tip is None:
        return (), frozenset()
    data = [repo.read_path(tip, name) or b"" for name in (ALLOWED_SIGNERS, REVOKED_KEYS)]
    return _parsed(data[0], data[1], KEYS)


def publish(repo: Repo, signer: Signer, when: datetime) -> None:
    """Show the bot's public keys in `refs/pantheon/keys`, beside those that other clones showed there: one signed
    commit per change, none when nothing changed."""
    allowed, revoked = _root(repo)
    mine = [line for line in _read(allowed).splitlines(keepends=True) if line.startswith(PRINCIPAL.encode())]
    tip = repo.ref(KEYS)
    data = {ALLOWED_SIGNERS: b"".join(mine), REVOKED_KEYS: _read(revoked)}
    if tip is not None:
        data = united(data, {name: repo.read_path(tip, name) or b"" for name in data})
    tree = _tree(repo, data)
    if tip is not None and repo.tree_of(tip) == tree:
        return
    shown = len(data[ALLOWED_SIGNERS].splitlines())
    message = f"keys: {shown}, revoked: {len(parse_revoked(data[REVOKED_KEYS]))}\n"
    commit = repo.commit(tree, [tip] if tip else [], message, when, signer)
    repo.move_ref(KEYS, commit, tip, "pantheon: keys")


def united(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> dict[str, bytes]:
    """The two files of keys as two clones showed them, together: of a key that both show the line that trusts it for
    the shorter time, and whatever either revoked."""
    allowed, revoked = one[ALLOWED_SIGNERS], one[REVOKED_KEYS]
    if other[ALLOWED_SIGNERS] != allowed:
        lines = [*allowed.splitlines(), *other[ALLOWED_SIGNERS].splitlines()]
        found: dict[bytes, bytes] = {}
        for line in sorted(filter(None, lines), key=_span):  # the last of a key counts
            found[next((word for word in line.split() if word.startswith(b"AAAA")), line)] = line
        allowed = b"".join(line + b"\n" for line in sorted(found.values()))
    if other[REVOKED_KEYS] != revoked:
        gone = {*revoked.splitlines(), *other[REVOKED_KEYS].splitlines()} - {b""}
        revoked = b"".join(line + b"\n" for line in sorted(gone))
    return {ALLOWED_SIGNERS: allowed, REVOKED_KEYS: revoked}


def _span(line: bytes) -> tuple[bool, str, bytes]:
    """Of the lines of one key the last has the earliest end, then the latest beginning."""
    until, since = (re.search(rb'%s="?(\d+)' % name, line) for name in (b"valid-before", b"valid-after"))
    end = "".join(str(9 - int(digit)) for digit in until[1].decode()) if until else ""
    return until is not None, end, (since[1] if since else b"") + line


def join(repo: Repo, theirs: str, signer: Signer, when: datetime) -> None:
    """The keys that another clone's commit shows, beside ours: a commit with both as parents. None of it is trusted."""
    tip = repo.ref(KEYS)
    sides = [
        {name: repo.read_path(at, name) or b"" for name in (ALLOWED_SIGNERS, REVOKED_KEYS)}
        for at in (tip or theirs, theirs)
    ]
    parents = [tip, theirs] if tip else [theirs]
    commit = repo.commit(_tree(repo, united(*sides)), parents, "merge: keys\n", when, signer)
    repo.move_ref(KEYS, commit, tip, "pantheon: merge")


def _tree(repo: Repo, data: Mapping[str, bytes]) -> str:
    return repo.write_tree(None, {name: (FILE, repo.write_blob(text)) for name, text in data.items()})


def tag(blob: bytes) -> str:
    """Four hexadecimal digits by which the nights of a clone are told from those of others: of its key's digest."""
    return hashlib.sha256(blob).hexdigest()[:4]


def own_tag(repo: Repo) -> str:
    """The tag of the key that signs here; "" when there is none yet."""
    words = _read(directory(repo) / f"{KEY_NAME}.pub").split()
    try:
        return tag(base64.b64decode(words[1], validate=True)) if len(words) > 1 else ""
    except ValueError:
        return ""


def accept(repo: Repo, fingerprints: Sequence[str]) -> None:
    """Copy published keys into this clone's trust root, with their validity, and what is revoked among those shown.

    The lines are written anew: for the bot's name and the purpose git only, whatever the ref says of them.
    """
    shown, gone = published(repo)
    unknown = [name for name in fingerprints if name not in {line.fingerprint for line in shown}]
    if unknown:
        hint = "git pantheon pull"
        raise RepositoryError("cannot accept a key", unknown[0], f"{KEYS} does not show it", hint)
    allowed, revoked = _root(repo)
    (repo.common_dir / "pantheon").mkdir(mode=0o700, exist_ok=True)
    lines = _read(allowed).decode("utf-8", "replace").splitlines()
    for key in shown:
        if key.fingerprint in fingerprints:
            lines = [one for one in lines if _text(key.blob) not in one.split()]  # its validity may be another now
            lines.append(_line(key))
    _write(allowed, "".join(f"{line}\n" for line in lines))
    for blob in sorted(gone & {key.blob for key in shown}):
        _revoke(revoked, blob)
    if not revoked.exists():
        _write(revoked, "")


def _line(key: KeyLine) -> str:
    options = ['namespaces="git"']
    for name, seconds in (("valid-after", key.after), ("valid-before", key.before)):
        if seconds is not None:
            options.append(f'{name}="{datetime.fromtimestamp(seconds, UTC):%Y%m%d%H%M%SZ}"')
    return f"{PRINCIPAL} {','.join(options)} {_kind(key.blob)} {_text(key.blob)}"


# --- rotate and revoke ------------------------------------------------------------------------------------------------


def rotate(repo: Repo, when: datetime) -> Signer:
    """A new key from `when` on. The old one stays trusted for what it signed until then; its private half is gone."""
    old = Signer.load_or_create(directory(repo))
    allowed, _ = _root(repo)
    since = when.astimezone(UTC).strftime("%Y%m%d%H%M%SZ")
    try:
        replace_key(old.directory, lambda public: trust_key(allowed, public, since))
        _end(allowed, old.public, since)
    except OSError as error:
        raise RepositoryError("cannot rotate the key", str(old.directory), str(error)) from error
    signer = Signer.load_or_create(directory(repo))
    publish(repo, signer, when)
    return signer


def revoke(repo: Repo, name: str, when: datetime) -> Signer:
    """Trust nothing that this key ever signed. The key in use is replaced first. The signer after it."""
    allowed, revoked = _root(repo)
    lines, _ = _parsed(_read(allowed), _read(revoked), str(allowed.parent))
    blob = next((line.blob for line in (*lines, *published(repo)[0]) if line.fingerprint == name), None)
    if blob is None:
        raise RepositoryError("cannot revoke a key", name, "no key here has this fingerprint", "git pantheon keys")
    signer = Signer.load_or_create(directory(repo))
    if signer.blob == blob:
        signer = rotate(repo, when)
    _revoke(revoked, blob)
    publish(repo, signer, when)
    return signer


def _revoke(path: Path, blob: bytes) -> None:
    held = _read(path).decode("utf-8", "replace")
    if _text(blob) not in held.split():
        end = "\n" if held and not held.endswith("\n") else ""
        _write(path, f"{held}{end}{_kind(blob)} {_text(blob)}\n")


def _kind(blob: bytes) -> str:
    """The type that a key names itself by, such as ssh-ed25519."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")


def _end(path: Path, public: str, until: str) -> None:
    """Give the line of a key an end, unless it has one. The other lines stay as they are."""
    lines = _read(path).decode("utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines):
        if public.split()[1] in line.split() and "valid-before" not in line:
            head, _, tail = line.partition(public)
            principal, options = split_word(head.strip() + " ")
            ended = f'{options},valid-before="{until}"' if options else f'valid-before="{until}"'
            lines[number] = f"{principal} {ended} {public}{tail}"
    _write(path, "".join(lines))


def _write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
