"""Attestations: one in-toto Statement per run in a DSSE envelope, and the seal of a night.

Owns `refs/notes/pantheon/attestations` and the form of statements and seals (SLSA provenance v1; README.md lists the
fields). A statement names the commit it is about: the note of another commit proves nothing there. It reads the stored
run, not what the night remembers; it does not decide what is attested, nor verify (verify.py does, with other code).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pantheon import __version__
from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Night, Record, Run, pretty
from pantheon.signers import SignatureFault, Trust, open_envelope, parse_allowed, parse_revoked
from pantheon.signing import ALLOWED_SIGNERS, REVOKED_KEYS

ATTESTATIONS = "refs/notes/pantheon/attestations"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:git-pantheon:item:v1"
BUILDER = "urn:git-pantheon:night"
SEAL = "application/vnd.git-pantheon.seal+json"
SEAL_FILE, SEAL_ENVELOPE = "seal.json", "seal.dsse.json"
_INPUT, _PROMPT = "input.json", "llm_prompt.txt"  # of a node, or of an attempt before its last
SEALED = ("refs/pantheon/", "refs/notes/pantheon/", "refs/heads/pantheon/")


class Egress(Record):
    """The proof that the night was closed, as a statement cites it."""

    sha256: str  # of egress.json
    closed: bool


def digest_files(paths: Sequence[Path]) -> dict[str, str]:
    """name -> sha256 of these files, read in pieces; a model's weights need not fit in memory."""
    found = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


# --- statements -------------------------------------------------------------------------------------------------------


def state(repo: Repo, run: Run, night: Night, egress: Egress, when: datetime) -> bytes:
    """The Statement over a stored run, as JSON: its commits, every artifact, and what made them. `when` it ended."""
    assert run.run_commit is not None, "a run is attested once it is stored"
    answered = _answered(repo, run.run_commit) if night.teacher else None
    return _json(
        {
            "_type": STATEMENT,
            "subject": _subjects(repo, run.result, run.run_commit),
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "task": run.item.task,
                        "item": run.item.id,
                        "flow": run.item.flow,
                        "target": run.item.target,
                    },
                    "internalParameters": {
                        "night": night.id,
                        "engine": night.engine,
                        "window": night.window,
                        "agents": [_agent(name, night, answered) for name in run.agents],
                    },
                    "resolvedDependencies": _dependencies(run, night, answered),
                },
                "runDetails": {
                    "builder": {"id": BUILDER, "version": {"git-pantheon": __version__}},
                    "metadata": {
                        "invocationId": run.id,
                        "startedOn": _instant(when - timedelta(seconds=run.seconds)),
                        "finishedOn": _instant(when),
                    },
                    "byproducts": [
                        {
                            "name": "egress.json",
                            "digest": {"sha256": egress.sha256},
                            "annotations": {"closed": egress.closed},
                        }
                    ],
                },
            },
        }
    )


def _subjects(repo: Repo, result: str | None, run_commit: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "result", "digest": {"gitCommit": result}}] if result else []
    found.append({"name": "run", "digest": {"gitCommit": run_commit}})
    for path, entry in repo.entries(run_commit).items():
        sha256 = hashlib.sha256(repo.read_blob(entry.oid)).hexdigest()
        found.append({"name": path, "digest": {"sha256": sha256, "gitBlob": entry.oid}})
    return found


def _answered(repo: Repo, run_commit: str) -> dict[str, set[str]]:
    """agent -> the models that answered it, as the artifacts of a stored run have them."""
    found: dict[str, set[str]] = {}
    entries = repo.entries(run_commit)
    for path, entry in entries.items():
        if path.endswith(_INPUT) and path.removesuffix(_INPUT) + _PROMPT in entries:
            with suppress(ValueError, KeyError, TypeError):  # of a very long one the middle was not kept
                said = json.loads(repo.read_blob(entry.oid))
                found.setdefault(said["agent"], set()).add(said["model"])
    return found


def _agent(name: str, night: Night, answered: Mapping[str, set[str]] | None) -> dict[str, Any]:
    """An agent as a statement names it. Where not one model answers all, with those that answered it."""
    said: dict[str, Any] = {"name": name, "template": night.templates.get(name)}
    if name in night.scripted:
        return {**said, "models": ["scripted"]}
    return said if answered is None else {**said, "models": sorted(answered.get(name, ()))}


def _dependencies(run: Run, night: Night, answered: Mapping[str, set[str]] | None) -> list[dict[str, Any]]:
    """What the result was made from; what has no digest (the scripted engine) is only named. Of two models that speak
    in a night those count that answered here."""
    found: list[dict[str, Any]] = [
        {"name": "base", "digest": {"gitCommit": run.base}},
        {"name": ".pantheon", "digest": {"sha256": night.config_sha256}},
    ]
    models = {night.model: night.model_sha256}
    if answered is not None:
        models |= {night.teacher: night.teacher_sha256}
        models = {name: files for name, files in models.items() if any(name in some for some in answered.values())}
    for model, files in models.items():
        weights = [{"name": f"model/{model}/{name}", "digest": {"sha256": sha}} for name, sha in sorted(files.items())]
        found += weights or [{"name": f"model/{model}", "uri": f"urn:git-pantheon:engine:{night.engine}"}]
    for agent in run.agents:
        if agent in night.adapters:
            digest = night.adapters[agent].removeprefix("sha256:")
            found.append({"name": f"adapter/{agent}", "digest": {"sha256": digest}})
    return found


def _instant(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def attest(repo: Repo, statements: Mapping[str, Sequence[bytes]], when: datetime, signer: Signer) -> None:
    """Sign statements and append them to the notes of their commits, in one notes commit."""
    lines = {commit: [signer.envelope(one, IN_TOTO) for one in some] for commit, some in statements.items()}
    if lines:
        repo.append_notes(ATTESTATIONS, lines, f"attestations of {len(lines)} commit(s)\n", when, signer)


def read(repo: Repo, commit: str) -> list[str]:
    """The envelopes in a commit's note, unverified."""
    return (repo.read_note(ATTESTATIONS, commit) or b"").decode("utf-8", "replace").splitlines()


def covers(repo: Repo, commit: str, run_commit: str) -> bool:
    """Whether a note that is there speaks of this state of a run; whether it holds is not asked."""
    return tells(read(repo, commit), run_commit)


def tells(lines: Sequence[str], run_commit: str) -> bool:
    """The same of the lines of a note."""
    wanted = {"name": "run", "digest": {"gitCommit": run_commit}}
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            if wanted in json.loads(base64.b64decode(json.loads(line)["payload"]))["subject"]:
                return True
    return False


def carry(repo: Repo, lines: Mapping[str, Sequence[str]], when: datetime, signer: Signer) -> None:
    """Envelopes as they are, on commits that lack them."""
    if lines:
        repo.append_notes(ATTESTATIONS, lines, f"attestations of {len(lines)} commit(s)\n", when, signer)


def restate(repo: Repo, moved: Mapping[str, str], when: datetime, signer: Signer) -> None:
    """New statements for rewritten commits (old -> new). Only what a trusted key of ours said of the old one is said
    again: an envelope that somebody else put there is left behind, not signed."""
    trust = trust_root(repo.common_dir)
    statements: dict[str, list[bytes]] = {}
    for old, new in moved.items():
        for line in read(repo, old):
            with suppress(SignatureFault, ValueError, KeyError, TypeError):
                payload, _ = open_envelope(line, IN_TOTO, trust)
                said = json.loads(payload)
                if {"name": "result", "digest": {"gitCommit": old}} not in said["subject"]:
                    continue
                kept = [one for one in said["subject"] if one["name"] != "result"]
                said["subject"] = [{"name": "result", "digest": {"gitCommit": new}}, *kept]
                said["predicate"]["runDetails"]["metadata"]["finishedOn"] = _instant(when)
                statements[new] = [_json(said)]  # the last one is the present one
    attest(repo, statements, when, signer)


def forget(repo: Repo, homes: Sequence[str], when: datetime, signer: Signer | None) -> None:
    """Take away the attestations of commits whose runs are collected."""
    if repo.ref(ATTESTATIONS) is not None:
        repo.remove_notes(ATTESTATIONS, homes, f"collected: statements on {len(homes)} commit(s)\n", when, signer)


def trust_root(common_dir: Path) -> Trust:
    """The keys this repository trusts. RepositoryError when a file of the trust root cannot be read as one."""
    allowed, revoked = common_dir / "pantheon" / ALLOWED_SIGNERS, common_dir / "pantheon" / REVOKED_KEYS
    try:
        return Trust(
            parse_allowed(allowed.read_bytes() if allowed.is_file() else b"", str(allowed)),
            parse_revoked(revoked.read_bytes() if revoked.is_file() else b"", str(revoked)),
        )
    except (OSError, ValueError) as error:
        raise RepositoryError("cannot read the trust root", str(allowed.parent), str(error), "edit it") from error


# --- the seal ---------------------------------------------------------------------------------------------------------


def seal(
    repo: Repo, night: str, files: Mapping[str, bytes], previous: str | None, when: datetime, signer: Signer
) -> dict[str, bytes]:
    """The two files that seal a night: every ref of Pantheon's with its target, the digest of every file of the night,
    and the commit that sealed the night before. Nothing of ours is written after it but the commit that holds it."""
    value = {
        "schema_version": 1,
        "night": night,
        "sealed_at": _instant(when),
        "previous": previous,
        "refs": {name: oid for prefix in SEALED for name, oid in repo.refs(prefix).items()},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    data = pretty(value)
    return {SEAL_FILE: data, SEAL_ENVELOPE: signer.envelope(data, SEAL).encode("ascii") + b"\n"}
