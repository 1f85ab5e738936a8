"""Statements and seals as anybody reads them: plain git, plain base64, the specifications' own field names."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import provenance
import pytest
from provenance import DAYS, Copy
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from pantheon import artifacts, attest, desk, nights
from pantheon import night as runner
from pantheon.engine import ScriptedEngine
from pantheon.records import Night, Outcome
from pantheon.survey import survey


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(provenance.scenario(tmp_path_factory))


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    return provenance.copy(tmp_path_factory, tmp_path / "copy")


def statements(copy: Copy, commit: str) -> list[dict[str, Any]]:
    note = copy.git("notes", f"--ref={attest.ATTESTATIONS}", "show", commit)
    return [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in note.splitlines()]


def test_every_run_has_a_statement_over_its_commits_and_every_artifact(shared: Copy) -> None:
    seen = 0
    for run in artifacts.list_runs(shared.repo):
        (said,) = statements(shared, run.result or run.run_commit or "")
        digests = {one["name"]: one["digest"] for one in said["subject"]}
        assert said["_type"] == "https://in-toto.io/Statement/v1"
        assert said["predicateType"] == "https://slsa.dev/provenance/v1"
        assert digests.pop("run") == {"gitCommit": run.run_commit}
        assert digests.pop("result", None) == ({"gitCommit": run.result} if run.result else None)
        names = shared.git("ls-tree", "-r", "--name-only", run.run_commit or "").splitlines()
        assert list(digests) == names
        for name, digest in digests.items():
            data = shared.repo.read_path(run.run_commit or "", name)
            assert data is not None
            assert digest["sha256"] == hashlib.sha256(data).hexdigest()
            assert digest["gitBlob"] == shared.ref(f"{run.run_commit}:{name}")
        seen += 1
    assert seen == 7


def test_a_statement_says_what_made_the_run(shared: Copy) -> None:
    run = next(run for run in artifacts.list_runs(shared.repo) if run.outcome is Outcome.ACCEPTED)
    (said,) = statements(shared, run.result or "")
    built, details = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    night = Night.model_validate_json(shared.git("show", f"refs/pantheon/nights/{run.night}:night.json"))
    assert built["externalParameters"]["target"] == run.item.target
    assert [agent["name"] for agent in built["internalParameters"]["agents"]] == list(run.agents)
    prompts = [agent["template"] for agent in built["internalParameters"]["agents"] if agent["template"]]
    assert prompts
    assert set(prompts) <= set(night.templates.values())
    needs = {one["name"]: one for one in built["resolvedDependencies"]}
    assert needs["base"]["digest"] == {"gitCommit": run.base}
    assert needs[".pantheon"]["digest"] == {"sha256": night.config_sha256}
    assert "model/scripted" in needs
    egress = shared.git("show", f"refs/pantheon/nights/{run.night}:egress.json").encode()
    assert details["byproducts"] == [
        {
            "name": "egress.json",
            "digest": {"sha256": hashlib.sha256(egress).hexdigest()},
            "annotations": {"closed": True},
        }
    ]
    assert details["metadata"]["invocationId"] == run.id


def test_an_envelope_verifies_with_the_library_alone(shared: Copy) -> None:
    run = next(iter(artifacts.list_runs(shared.repo)))
    line = shared.git("notes", f"--ref={attest.ATTESTATIONS}", "show", run.result or run.run_commit or "").strip()
    envelope = Envelope.from_dict(json.loads(line))
    signer = desk.signer(shared.repo)
    key = SSlibKey("", "ed25519", "ed25519", {"public": signer.blob[-32:].hex()})
    key.keyid = signer.fingerprint
    assert list(envelope.verify([key], 1)) == [signer.fingerprint]
    assert envelope.payload_type == "application/vnd.in-toto+json"


def test_a_moved_commit_gets_a_statement_of_its_own_and_keeps_no_copy(shared: Copy) -> None:
    record = json.loads(shared.git("show", "refs/pantheon/prs/2/meta:pr.json"))
    before = json.loads(shared.git("show", "refs/pantheon/prs/2/meta~1:pr.json"))
    (kept,) = [item for item in record["items"] if item["run"] and not item["dropped"]]
    old = next(item["commit"] for item in before["items"] if item["run"] == kept["run"])
    assert kept["commit"] != old
    for commit in (kept["commit"], old):
        (said,) = statements(shared, commit)
        assert {"name": "result", "digest": {"gitCommit": commit}} in said["subject"]


def test_a_foreign_envelope_is_left_behind_when_a_commit_moves(field: Copy) -> None:
    copy = field
    run = next(run for run in artifacts.list_runs(copy.repo) if run.result)
    (genuine,) = attest.read(copy.repo, run.result or "")
    said = json.loads(genuine)
    payload = json.loads(base64.b64decode(said["payload"]))
    payload["predicate"]["buildDefinition"]["externalParameters"]["target"] = "docs/other.md"
    said["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    copy.repo.append_notes(attest.ATTESTATIONS, {run.result or "": [json.dumps(said)]}, "forged", DAYS[2])
    new = copy.ref("main")
    attest.restate(copy.repo, {run.result or "": new}, DAYS[2], desk.signer(copy.repo))
    (moved,) = statements(copy, new)
    assert moved["predicate"]["buildDefinition"]["externalParameters"]["target"] == run.item.target


def test_a_seal_lists_every_ref_and_every_file_and_names_the_one_before(shared: Copy) -> None:
    first = "refs/pantheon/nights/2026-03-01-1"
    seal = json.loads(shared.git("show", "refs/pantheon/nights/2026-03-02-1:seal.json"))
    assert seal["previous"] == shared.ref(first)
    assert seal["refs"][first] == shared.ref(first)
    names = set(shared.git("ls-tree", "--name-only", "refs/pantheon/nights/2026-03-02-1").split())
    assert set(seal["files"]) | {"seal.json", "seal.dsse.json"} == names
    for name, digest in seal["files"].items():
        data = shared.git("show", f"refs/pantheon/nights/2026-03-02-1:{name}").encode()
        assert hashlib.sha256(data).hexdigest() == digest
    ours = ("refs/pantheon", "refs/notes/pantheon", "refs/heads/pantheon")
    present = set(shared.git("for-each-ref", "--format=%(refname)", *ours).split())
    later = {"refs/pantheon/prs/2/r2"}  # a person rejected an item in the morning
    assert set(seal["refs"]) == present - later
    envelope = json.loads(shared.git("show", "refs/pantheon/nights/2026-03-02-1:seal.dsse.json"))
    assert json.loads(base64.b64decode(envelope["payload"])) == seal


def test_weights_are_digested_in_pieces(tmp_path: Path) -> None:
    for name, data in (("b.safetensors", b"x" * 3_000_000), ("a.safetensors", b"")):
        (tmp_path / name).write_bytes(data)
    assert attest.digest_files(list(tmp_path.iterdir())) == {
        "a.safetensors": hashlib.sha256(b"").hexdigest(),
        "b.safetensors": hashlib.sha256(b"x" * 3_000_000).hexdigest(),
    }


def test_every_commit_of_pantheons_verifies_with_plain_git(shared: Copy) -> None:
    signers = shared.common / "pantheon/allowed_signers"
    refs = ("refs/pantheon", "refs/notes/pantheon", "refs/heads/pantheon")
    tips = shared.git("for-each-ref", "--format=%(objectname)", *refs).split()
    commits = shared.git("rev-list", "--author=Pantheon", *tips).split()
    assert len(commits) > 40
    shared.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", *commits)


def test_what_a_kill_left_out_is_made_good_when_the_night_goes_on(field: Copy, tmp_path: Path) -> None:
    """The notes of a run are taken away, as if a kill had come before them; the next start writes them again."""
    repo = field.repo
    found = survey(repo, repo.head().commit)
    frozen = nights.thaw(repo, "2026-03-02-1", lambda base: found)
    running = runner._Runner(
        repo,
        frozen,
        ScriptedEngine(),
        tmp_path,
        desk.signer(repo),
        lambda: DAYS[1],
        runner.Progress(),
    )
    run = next(run for run in frozen.runs if run.outcome is Outcome.FAILED)
    home = run.result or run.run_commit or ""
    before = {ref: repo.read_note(ref, home) for ref in (artifacts.NOTES, attest.ATTESTATIONS)}
    assert all(before.values())
    for ref in before:
        parent = field.git("log", "--format=%H", "-1", "--skip=0", ref, "--", f"{home[:2]}/{home[2:]}").strip()
        repo.move_ref(ref, field.ref(f"{parent}^"), field.ref(ref), "as before a kill")
        assert repo.read_note(ref, home) is None
    running.mend()
    assert repo.read_note(artifacts.NOTES, home) == before[artifacts.NOTES]
    assert attest.covers(repo, home, run.run_commit or "")


def test_a_night_of_an_older_version_still_loads() -> None:
    old = {
        "id": "2026-01-01-1",
        "started_at": "2026-01-01T00:00:00Z",
        "base": "0" * 40,
        "branch": "main",
        "budget_s": 60.0,
        "window": 4,
        "engine": "scripted",
        "model": "scripted",
    }
    night = Night.model_validate(old)
    assert (night.config_sha256, night.model_sha256, night.templates, night.adapters) == ("", {}, {}, {})
