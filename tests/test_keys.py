"""Keys over time, as real git and ssh-keygen see them: rotated, revoked, published, accepted."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import provenance
import pytest
from provenance import DAYS, Copy

from pantheon import cli, desk, keys, nights, notary
from pantheon.errors import RepositoryError
from pantheon.git import Signer
from pantheon.signers import SignatureFault, Trust, check_ssh, parse_allowed, parse_revoked

REFS = ("+refs/pantheon/*:refs/pantheon/*", "+refs/notes/pantheon/*:refs/notes/pantheon/*")


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    copy = provenance.copy(tmp_path_factory, tmp_path / "copy")
    copy.git("config", "gpg.ssh.allowedSignersFile", str(copy.common / "pantheon/allowed_signers"))
    copy.git("config", "gpg.ssh.revocationFile", str(copy.common / "pantheon/revoked_keys"))
    return copy


def a_commit(copy: Copy, signer: Signer, when: datetime) -> str:
    return copy.repo.commit(copy.ref("main^{tree}"), [], "x", when, signer)


def holds(copy: Copy, commit: str) -> bool:
    done = subprocess.run(["git", "verify-commit", commit], cwd=copy.root, capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def clone(copy: Copy, target: Path) -> Copy:
    copy.git("clone", "-q", "--no-hardlinks", str(copy.root), str(target))
    made = Copy(target)
    made.git("fetch", "-q", "origin", *REFS, "+refs/heads/pantheon/*:refs/heads/pantheon/*")
    return made


# --- rotate -----------------------------------------------------------------------------------------------------------


def test_a_rotation_keeps_the_past_and_ends_the_old_key(field: Copy) -> None:
    old = desk.signer(field.repo)
    private = (keys.directory(field.repo) / "pantheon_ed25519").read_bytes()
    before = a_commit(field, old, DAYS[1])
    new = keys.rotate(field.repo, DAYS[2])
    after = a_commit(field, new, DAYS[3])
    late = a_commit(field, old, DAYS[3])
    early = a_commit(field, new, DAYS[1])
    assert new.fingerprint != old.fingerprint
    assert desk.signer(field.repo).fingerprint == new.fingerprint
    assert [holds(field, one) for one in (before, after, late, early)] == [True, True, False, False]
    assert field.lines() == []
    assert len(field.verify().signers) == 2  # the published keys were signed by the new one
    body = b"".join(private.splitlines()[1:-1])
    left = [path for path in field.common.rglob("*") if path.is_file() and body[100:160] in path.read_bytes()]
    assert left == []
    listed = keys.listed(field.repo)
    assert [(k.fingerprint, k.since, k.until, k.in_use) for k in listed] == [
        (old.fingerprint, None, "2026-03-03T02:30:00Z", False),
        (new.fingerprint, "2026-03-03T02:30:00Z", None, True),
    ]
    assert all(key.trusted and key.published and not key.revoked for key in listed)


def test_a_line_that_a_person_wrote_stays_as_it_is(field: Copy) -> None:
    path = field.common / "pantheon/allowed_signers"
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"k" * 32).decode()
    mine = f'# my own\nann@example.org,*@example.org namespaces="git,file" ssh-ed25519 {blob} a comment\n'
    path.write_text(mine + path.read_text())
    keys.rotate(field.repo, DAYS[2])
    keys.rotate(field.repo, DAYS[3])
    text = path.read_text()
    assert text.startswith(mine)
    assert text.count("valid-before") == 2
    assert text.count("valid-after") == 2
    assert len(parse_allowed(path.read_bytes())) == 4
    assert field.lines() == []


# --- revoke -----------------------------------------------------------------------------------------------------------


def test_nothing_that_a_revoked_key_signed_verifies(field: Copy) -> None:
    old = desk.signer(field.repo)
    commit = a_commit(field, old, DAYS[1])
    new = keys.revoke(field.repo, old.fingerprint, DAYS[2])
    assert new.fingerprint != old.fingerprint
    assert not holds(field, commit)
    assert holds(field, a_commit(field, new, DAYS[3]))
    found = field.verify()
    assert {fault.kind for fault in found.faults if "revoked" in fault.why} == {"key"}
    signed = [fault for fault in found.faults if fault.why == f"{old.fingerprint} is revoked"]
    assert len(signed) > 40
    assert [(key.fingerprint, key.revoked) for key in keys.listed(field.repo)] == [
        (old.fingerprint, True),
        (new.fingerprint, False),
    ]
    with pytest.raises(RepositoryError, match="no key here"):
        keys.revoke(field.repo, "SHA256:nothing", DAYS[2])


# --- publish and accept -----------------------------------------------------------------------------------------------


def test_a_clone_trusts_nothing_until_a_key_is_accepted(
    field: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = clone(field, tmp_path / "clone")
    name = desk.signer(field.repo).fingerprint
    with pytest.raises(RepositoryError, match="no trust root"):
        other.verify()
    assert [(key.fingerprint, key.trusted) for key in keys.listed(other.repo)] == [(name, False)]
    assert notary.accept(other.repo, None) == 1  # no terminal: nothing is accepted by itself
    assert name in capsys.readouterr().out
    with pytest.raises(RepositoryError, match="does not show it"):
        notary.accept(other.repo, "SHA256:nothing")
    assert not (other.common / "pantheon/allowed_signers").exists()
    assert notary.accept(other.repo, name) == 0
    assert other.lines() == []


def test_a_clone_with_a_key_of_its_own_is_told_of_the_published_one(
    field: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = clone(field, tmp_path / "clone")
    own = desk.signer(other.repo)
    assert notary.verify(other.repo, "all", signers=None, as_json=False) == 1
    said = capsys.readouterr().out
    assert f"{desk.signer(field.repo).fingerprint} is not in the trust root" in said
    assert "next: git pantheon keys accept" in said
    keys.accept(other.repo, [desk.signer(field.repo).fingerprint])
    assert other.lines() == []
    assert {key.fingerprint for key in keys.listed(other.repo) if key.trusted} == {
        own.fingerprint,
        desk.signer(field.repo).fingerprint,
    }


def test_a_clone_that_accepted_first_still_trusts_the_key_it_makes(field: Copy, tmp_path: Path) -> None:
    other = clone(field, tmp_path / "clone")
    keys.accept(other.repo, [desk.signer(field.repo).fingerprint])
    own = desk.signer(other.repo)
    assert own.fingerprint in {key.fingerprint for key in keys.listed(other.repo) if key.trusted}


def test_a_rotation_and_a_revocation_reach_a_clone_when_it_accepts(field: Copy, tmp_path: Path) -> None:
    other = clone(field, tmp_path / "clone")
    first = desk.signer(field.repo).fingerprint
    keys.accept(other.repo, [first])
    second = keys.rotate(field.repo, DAYS[2]).fingerprint
    other.git("fetch", "-q", "origin", *REFS)
    assert any(second in line for line in other.lines())
    keys.accept(other.repo, [first, second])
    assert other.lines() == []
    until = next(key.until for key in keys.listed(other.repo) if key.fingerprint == first)
    assert until == "2026-03-03T02:30:00Z"
    keys.revoke(field.repo, first, DAYS[3])
    other.git("fetch", "-q", "origin", *REFS)
    assert other.lines() == []  # a ref alone revokes no more than it trusts
    keys.accept(other.repo, [second])
    assert any("is revoked" in line for line in other.lines())


def test_what_the_ref_says_of_a_key_gives_it_no_more_than_an_accepted_key_has(field: Copy, tmp_path: Path) -> None:
    """A hostile ref: the bot's key for every name and purpose, a certificate authority, a colleague's key revoked."""
    signer = desk.signer(field.repo)
    other = clone(field, tmp_path / "clone")
    colleague = Signer.load_or_create(tmp_path / "colleague/keys").public
    text = f"* {signer.public}\n* cert-authority {colleague}\n"
    files = {"allowed_signers": text, "revoked_keys": f"{colleague}\n"}
    blobs = {name: (0o100644, other.repo.write_blob(data.encode())) for name, data in files.items()}
    commit = other.repo.commit(other.repo.write_tree(None, blobs), [], "keys: 2\n", DAYS[2])
    other.repo.move_ref(keys.KEYS, commit, other.ref(keys.KEYS), "hostile")
    keys.accept(other.repo, [signer.fingerprint])
    line = f'pantheon@localhost namespaces="git" {signer.public}\n'
    assert (other.common / "pantheon/allowed_signers").read_text() == line
    assert (other.common / "pantheon/revoked_keys").read_text() == ""


def test_a_third_party_brings_its_own_signers(field: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "signers"
    mine.write_bytes((field.common / "pantheon/allowed_signers").read_bytes())
    (field.common / "pantheon/allowed_signers").unlink()
    assert notary.verify(field.repo, "all", signers=mine, as_json=False) == 0
    assert capsys.readouterr().out.startswith("verified 2 nights")
    stranger = Signer.load_or_create(tmp_path / "else/keys")
    mine.write_text(f"* {stranger.public}\n")
    assert notary.verify(field.repo, "all", signers=mine, as_json=False) == 1
    assert "is not in the trust root" in capsys.readouterr().out


def test_keys_are_published_once_per_change(field: Copy) -> None:
    signer = desk.signer(field.repo)
    before = field.ref(keys.KEYS)
    keys.publish(field.repo, signer, DAYS[2])
    assert field.ref(keys.KEYS) == before
    keys.rotate(field.repo, DAYS[2])
    assert field.git("rev-list", keys.KEYS).split()[1:] == [before]
    assert holds(field, field.ref(keys.KEYS))


# --- the same answer as ssh-keygen ------------------------------------------------------------------------------------


def ssh_keygen(tmp_path: Path, allowed: str, revoked: str, signature: str, when: datetime, payload: bytes) -> bool:
    for name, text in (("allowed", allowed), ("revoked", revoked), ("sig", signature)):
        (tmp_path / name).write_text(text)
    stamp = when.astimezone(UTC).strftime("%Y%m%d%H%M%SZ")
    files = ("-f", tmp_path / "allowed", "-s", tmp_path / "sig", "-r", tmp_path / "revoked")
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-I", "pantheon@localhost", "-n", "git", *files, f"-Overify-time={stamp}"],
        input=payload,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode == 0


@pytest.mark.parametrize(
    ("line", "shift", "revoked", "good"),
    [
        ("{p} {k}", 0, "", True),
        ('{p} namespaces="git" {k}', 0, "", True),
        ('{p} namespaces="g*,!gi?" {k}', 0, "", False),
        ('{p} namespaces="file" {k}', 0, "", False),
        ('{p} valid-after="20260301023000Z" {k}', 0, "", True),
        ('{p} valid-after="20260301023000Z" {k}', -1, "", False),
        ('{p} valid-before="20260301023000Z" {k}', 0, "", True),
        ('{p} valid-before="20260301023000Z" {k}', 1, "", False),
        ('{p} namespaces="git",valid-after="20260101",valid-before="202604010000" {k} with words', 0, "", True),
        ("{p} {k}", 0, "{k}", False),
        ("{p} {k}", 0, "# nothing\n\n", True),
        ("# {p} {k}", 0, "", False),
        ("", 0, "", False),
    ],
)
def test_a_trust_root_means_what_it_means_to_ssh_keygen(
    tmp_path: Path, line: str, shift: int, revoked: str, good: bool
) -> None:
    signer = Signer.load_or_create(tmp_path / "keys")
    payload, when = b"a commit", DAYS[0] + timedelta(seconds=shift)
    text = line.format(p="pantheon@localhost", k=signer.public) + "\n"
    gone = revoked.format(k=signer.public) + "\n" * bool(revoked)
    signature = signer.sign(payload)
    assert ssh_keygen(tmp_path, text, gone, signature, when, payload) is good
    trust = Trust(parse_allowed(text.encode()), parse_revoked(gone.encode()))
    if good:
        assert check_ssh(signature, payload, "git", int(when.timestamp()), trust) == signer.fingerprint
    else:
        with pytest.raises(SignatureFault) as raised:
            check_ssh(signature, payload, "git", int(when.timestamp()), trust)
        assert raised.value.kind == "key"


GOOD = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9mTfOe69+oP+Lhk/BjcvnW5Dwjv/OZJFpazZnmz7au\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"ann\n", "a key is missing"),
        (b"ann ssh-ed25519 notbase64!\n", "not a public key"),
        (b"ann ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIB9mTfOe69+oP+Lhk/BjcvnW5Dwjv/OZJFpazZnmz7au\n", "says"),
        (b'ann unknown="x" ssh-ed25519 AAAA\n', "an option that is not known"),
        (b'ann valid-after="tomorrow" ' + GOOD, "not a time"),
        (b'ann valid-before="20261399" ' + GOOD, "not a time"),
        (b"ann \xff\n", "is not UTF-8"),
    ],
)
def test_a_trust_root_that_cannot_be_read_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_allowed(data)


def test_a_list_of_revoked_keys_that_cannot_be_read_is_refused() -> None:
    for data in (b"SSHKRL\n\0\0", b"nonsense\n", b"ssh-ed25519 !\n"):
        with pytest.raises(ValueError, match="revoked_keys"):
            parse_revoked(data)


def test_the_night_reads_its_key_where_nothing_can_be_written(tmp_path: Path) -> None:
    signer = Signer.load_or_create(tmp_path / "pantheon/keys")
    seen = {path: path.stat().st_mtime_ns for path in (tmp_path / "pantheon").rglob("*")}
    again = Signer.load_or_create(tmp_path / "pantheon/keys")
    assert again.fingerprint == signer.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pantheon").rglob("*")} == seen


def test_the_two_kinds_of_signature_cannot_be_confused(tmp_path: Path) -> None:
    """What an envelope's signature covers can never be what an ssh signature covers: they begin otherwise."""
    signer = Signer.load_or_create(tmp_path / "keys")
    envelope = signer.envelope(b"payload", "type")
    assert f'"keyid":"{signer.fingerprint}"' in envelope
    trust = Trust(parse_allowed(f"* {signer.public}\n".encode()), frozenset())
    raw = base64.b64decode(envelope.split('"sig":"')[1].split('"')[0])
    blob = base64.b64decode("".join(signer.sign(b"DSSEv1 4 type 7 payload").splitlines()[1:-1]))
    swapped = blob[:-64] + raw
    text = base64.b64encode(swapped).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    armour = "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])
    with pytest.raises(SignatureFault, match="are others"):
        check_ssh(armour, b"DSSEv1 4 type 7 payload", "git", 0, trust)


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_commands(field: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(field.root)
    first = desk.signer(field.repo).fingerprint
    assert cli.main(["verify", "--all"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("verified 2 nights, 7 runs, 2 PRs, ")
    assert said.rstrip().endswith(f"signed by {first}")
    assert cli.main(["verify", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prs"] == 1
    assert cli.main(["keys", "rotate"]) == 0
    assert cli.main(["keys", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))
    assert [key["in_use"] for key in listed] == [False, True]
    assert cli.main(["keys", "revoke", first]) == 0
    assert cli.main(["verify"]) == 1
    out = capsys.readouterr().out
    assert f"key: commit {field.ref('refs/pantheon/nights/2026-03-02-1')} " in out
    assert f"{first} is revoked" in out
    assert cli.main(["verify", "99"]) == 1
    assert "no such PR" in capsys.readouterr().err


def test_no_key_is_changed_while_a_night_runs(field: Copy) -> None:
    with nights.alone(field.repo), pytest.raises(RepositoryError, match="another one is running"):
        notary.rotate(field.repo, DAYS[2])
