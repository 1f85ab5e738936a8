"""Attacks 30 and 31: what was accepted still verifies a month later and elsewhere; what was changed is named, with the
right reason. Some attackers have no key; some changes are made with the bot's own key: then only the records tell."""

from __future__ import annotations

import json
from pathlib import Path

import provenance
import pytest
from provenance import DAYS, Copy, Forger, entries, loose, object_path

from pantheon import artifacts, attest, desk, keys
from pantheon.git import Signer
from pantheon.records import Outcome, Run
from pantheon.verify import load_trust, verify

REFS = ("+refs/pantheon/*:refs/pantheon/*", "+refs/notes/pantheon/*:refs/notes/pantheon/*")


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    return provenance.copy(tmp_path_factory, tmp_path / "copy")


def runs(copy: Copy, night: str = "2026-03-01-1") -> list[Run]:
    return [run for run in artifacts.list_runs(copy.repo) if run.night == night and run.outcome is Outcome.ACCEPTED]


def blobs(copy: Copy, run: Run) -> dict[str, str]:
    """path -> blob of a run's artifacts that are not empty."""
    lines = copy.git("ls-tree", "-r", "-l", run.run_commit or "").splitlines()
    found = {line.split("\t")[1]: line.split() for line in lines}
    return {path: words[2] for path, words in found.items() if path != "run.json" and words[3] != "0"}


# --- 30 ---------------------------------------------------------------------------------------------------------------


def test_after_gc_and_thirty_days_every_accepted_record_verifies(field: Copy) -> None:
    field.git("reflog", "expire", "--expire=now", "--all")
    field.git("gc", "-q", "--aggressive", "--prune=now")
    found = field.verify()
    assert found.faults == ()
    assert (found.nights, found.runs, found.prs) == (2, 7, 2)


def test_a_fresh_clone_with_notes_and_refs_verifies(field: Copy, tmp_path: Path) -> None:
    field.git("gc", "-q", "--prune=now")
    field.git("clone", "-q", "--no-local", "--bare", str(field.root), str(tmp_path / "bare.git"))
    field.git("-C", str(tmp_path / "bare.git"), "fetch", "-q", str(field.root), *REFS)
    trust = load_trust(tmp_path / "bare.git", field.common / "pantheon/allowed_signers")
    found = verify(tmp_path / "bare.git", trust, "all")
    assert found.faults == ()
    assert (found.nights, found.runs, found.prs) == (2, 7, 2)


def test_an_open_prs_branch_may_be_a_remote_tracking_one_and_nothing_else(field: Copy, tmp_path: Path) -> None:
    place = tmp_path / "clone"
    field.git("clone", "-q", "--no-local", str(field.root), str(place))
    field.git("-C", str(place), "fetch", "-q", str(field.root), *REFS)
    trust = load_trust(place / ".git", field.common / "pantheon/allowed_signers")
    assert verify(place / ".git", trust, "all").faults == ()
    (branch,) = field.git(
        "-C", str(place), "for-each-ref", "--format=%(refname)", "refs/remotes/origin/pantheon"
    ).split()
    field.git("-C", str(place), "update-ref", branch, "HEAD")
    (fault,) = verify(place / ".git", trust, "all").faults
    assert (fault.kind, fault.where) == ("ref", branch.replace("refs/remotes/origin", "refs/heads"))


# --- 31: artifacts ----------------------------------------------------------------------------------------------------


def test_one_byte_in_each_artifact_names_that_artifact(field: Copy) -> None:
    trust, seen = load_trust(field.common), 0
    for run in artifacts.list_runs(field.repo):
        kept: dict[str, bytes] = {}
        for blob in set(blobs(field, run).values()):
            place = object_path(field.common, blob)
            kept[blob] = place.read_bytes()
            kind, data = provenance.parse(place)
            place.chmod(0o644)
            place.write_bytes(loose(kind, data[:-1] + bytes([data[-1] ^ 1])))
        found = verify(field.common, trust, run.night)
        for blob, raw in kept.items():
            object_path(field.common, blob).write_bytes(raw)
            told = [fault for fault in found.faults if fault.where == blob]
            assert {fault.kind for fault in told} == {"object"}
            assert any("its content is that of" in fault.why for fault in told)
            assert all(fault.why.startswith("run ") for fault in told)  # and names it: run ID, NODE/NAME
            seen += 1
    assert seen > 150


def test_a_byte_of_inline_content_names_the_artifact_and_the_byte(field: Copy) -> None:
    """Made with the bot's own key: the note's content is not the artifact's."""
    run = runs(field)[0]
    signer = desk.signer(field.repo)
    note = (field.repo.read_note(artifacts.NOTES, run.result or "") or b"").decode().splitlines()
    number, line = next(
        (n, json.loads(text)) for n, text in enumerate(note) if (json.loads(text)["content"] or "")[20:]
    )
    line["content"] = line["content"][:17] + chr(ord(line["content"][17]) ^ 1) + line["content"][18:]
    note[number] = json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    texts = {run.result or "": "".join(text + "\n" for text in note).encode()}
    field.repo.set_notes(artifacts.NOTES, texts, "forged", DAYS[2], signer)
    where = f"artifact: refs/notes/pantheon/artifacts on {run.result}, {line['node']}/{line['name']}"
    assert f"{where}: field content: it differs from the artifact at byte 17" in field.lines()
    assert any("lines were changed or taken away" in text for text in field.lines())


def test_an_artifact_listed_twice_or_not_at_all_is_named(field: Copy) -> None:
    run = runs(field)[0]
    note = (field.repo.read_note(artifacts.NOTES, run.result or "") or b"").splitlines(keepends=True)
    first, last = json.loads(note[0]), json.loads(note[-1])
    texts = {run.result or "": b"".join([*note[:-1], note[0]])}
    field.repo.set_notes(artifacts.NOTES, texts, "forged", DAYS[2], desk.signer(field.repo))
    where = f"artifact: refs/notes/pantheon/artifacts on {run.result}, "
    assert f"{where}{first['node']}/{first['name']}: it is listed twice" in field.lines()
    assert f"{where}{last['node']}/{last['name']}: it is in the tree of the run, but not listed" in field.lines()


def test_a_dropped_node_is_named(field: Copy) -> None:
    """The directory of a reviewer is taken out of a run, with the bot's own key and fitting hashes."""
    run = runs(field)[0]
    tree = field.ref(f"{run.run_commit}^{{tree}}")
    forger = Forger(field, desk.signer(field.repo))
    kept = [entry for entry in entries(forger.objects[tree][1]) if entry[0] != b"review-b"]
    data = b"".join(b"%o %s\0" % (mode, name) + bytes.fromhex(oid) for name, mode, oid in kept)
    forger.forge(tree, "tree", data)
    lines = field.lines()
    where = f"artifact: refs/notes/pantheon/artifacts on {run.result}, review-b/"
    assert f"{where}review.json: it is listed, but not in the tree of the run" in lines
    assert any(line.startswith("statement: ") for line in lines)


# --- 31: notes --------------------------------------------------------------------------------------------------------


def test_swapped_notes_are_named(field: Copy) -> None:
    one, two = runs(field)[:2]
    signer = desk.signer(field.repo)
    for ref in (artifacts.NOTES, attest.ATTESTATIONS):
        texts = {a.result or "": field.repo.read_note(ref, b.result or "") or b"" for a, b in ((one, two), (two, one))}
        field.repo.set_notes(ref, texts, "swapped", DAYS[2], signer)
    lines = field.lines()
    for a, b in ((one, two), (two, one)):
        assert any(
            line.startswith(f"note: refs/notes/pantheon/artifacts on {a.result}, ")
            and line.endswith(f"it is the record of run {b.id}; this commit is of run {a.id}")
            for line in lines
        )
        assert any(
            line.startswith(f"statement: refs/notes/pantheon/attestations on {a.result}, line 1: it is the record of")
            and str(b.result) in line
            for line in lines
        )


def test_swapped_summaries_are_named(field: Copy) -> None:
    """Of an accepted and a failed run: `git log` would show the one under the other."""
    good = runs(field)[0].result or ""
    bad = next(r.run_commit or "" for r in artifacts.list_runs(field.repo) if r.outcome is Outcome.FAILED)
    texts = {a: field.repo.read_note(artifacts.SUMMARY, b) or b"" for a, b in ((good, bad), (bad, good))}
    field.repo.set_notes(artifacts.SUMMARY, texts, "swapped", DAYS[2], desk.signer(field.repo))
    for commit in (good, bad):
        where = f"note: refs/notes/pantheon/summary on {commit}: it is not what run "
        assert any(line.startswith(where) for line in field.lines())


def test_notes_swapped_by_somebody_without_the_key_are_unsigned(field: Copy) -> None:
    one, two = runs(field)[:2]
    texts = {a.result or "": field.repo.read_note(artifacts.NOTES, b.result or "") or b"" for a, b in ((one, two),)}
    tip = field.repo.set_notes(artifacts.NOTES, texts, "swapped", DAYS[2])
    assert f"signature: commit {tip} (refs/notes/pantheon/artifacts): it is not signed" in field.lines()


def test_last_weeks_record_on_a_new_commit_is_named(field: Copy) -> None:
    """A genuine, signed record, taken to a commit that it is not about: of another run, and of the user."""
    old, new = runs(field)[0], runs(field, "2026-03-02-1")[0]
    signer = desk.signer(field.repo)
    envelope = attest.read(field.repo, old.result or "")
    field.repo.append_notes(attest.ATTESTATIONS, {new.result or "": envelope}, "again", DAYS[2], signer)
    mine = field.ref("main")
    field.repo.append_notes(attest.ATTESTATIONS, {mine: envelope}, "again", DAYS[2], signer)
    lines = field.lines()
    where = f"statement: refs/notes/pantheon/attestations on {new.result}, line 2"
    why = f"it is the record of commit {old.result} and run commit {old.run_commit}, not of this commit"
    assert f"{where}: {why}" in lines
    path = f"{mine[:2]}/{mine[2:]}"
    no = f"{mine} is no commit of a run or a PR of Pantheon's"
    assert f"note: refs/notes/pantheon/attestations {path}: {no}" in lines


def test_a_whole_record_moved_to_another_night_is_named(field: Copy) -> None:
    """A run's ref is pointed at the run of another night: everything in it is signed, and is of something else."""
    old, new = runs(field)[0], runs(field, "2026-03-02-1")[0]
    (field.common / artifacts.run_ref(new.id)).write_text(f"{old.run_commit}\n")
    lines = field.lines()
    assert f"run: run {new.id}, run.json: field id: expected {new.id}, found {old.id}" in lines
    assert any(line.startswith(f"ref: {artifacts.run_ref(new.id)}: is at {old.run_commit}") for line in lines)


# --- 31: refs and the seal --------------------------------------------------------------------------------------------


def test_a_deleted_ref_is_named_by_the_seal(field: Copy) -> None:
    names = field.git("for-each-ref", "--format=%(refname)", "refs/pantheon", "refs/notes/pantheon").split()
    later = {"refs/pantheon/prs/2/r2", "refs/pantheon/nights/2026-03-02-1"}  # after the last seal, or the seal itself
    for name in names:
        raw = (field.common / name).read_bytes()
        (field.common / name).unlink()
        lines = field.lines()
        (field.common / name).write_bytes(raw)
        assert any(line.startswith(f"ref: {name}: ") for line in lines), name
        if name not in later:
            assert any(line.startswith(f"ref: {name}: is missing; the seal of night 2026-03-0") for line in lines), name


def test_a_ref_rolled_back_behind_its_seal_is_named(field: Copy) -> None:
    seal = json.loads(field.git("show", "refs/pantheon/nights/2026-03-02-1:seal.json"))["refs"]
    for name in (artifacts.NOTES, attest.ATTESTATIONS, "refs/pantheon/prs/1/meta", "refs/pantheon/nights/2026-03-01-1"):
        raw = (field.common / name).read_bytes()
        (field.common / name).write_text(field.ref(f"{seal[name]}^") + "\n")
        lines = field.lines()
        (field.common / name).write_bytes(raw)
        assert any(line.startswith(f"ref: {name}: ") and "does not descend" in line for line in lines), (name, lines)


def test_decisions_that_were_put_back_are_missed(field: Copy) -> None:
    """They are younger than the last seal: the PR's own record says that they were there."""
    ref = "refs/notes/pantheon/decisions"
    kept = field.git("rev-list", ref).split()
    (field.common / ref).write_text(kept[-1] + "\n")
    lines = field.lines()
    assert any(line.startswith(f"note: {ref} on ") and "PR 1 was accepted: " in line for line in lines), lines


def test_a_pr_whose_closing_was_put_back_is_found(field: Copy) -> None:
    """Its record is as it was sealed, open; its branch, its second revision and its decisions say what came after."""
    ref = "refs/pantheon/prs/1/meta"
    seal = json.loads(field.git("show", "refs/pantheon/nights/2026-03-01-1:seal.json"))
    (field.common / ref).write_text(seal["refs"][ref] + "\n")
    found = field.verify("1")
    assert any(fault.where == "refs/heads/pantheon/tidy/1" for fault in found.faults)
    assert any("refs/pantheon/prs/1/r2 is not in the record of its PR" in text for text in found.said)
    assert any("PR 1 is open, but dropped is said of docs/" in text for text in found.said)


def test_a_night_that_is_gone_is_named_by_the_next(field: Copy) -> None:
    (field.common / "refs/pantheon/nights/2026-03-01-1").unlink()
    lines = field.lines()
    assert any(line.startswith("ref: refs/pantheon/nights/2026-03-01-1: is missing; the seal of") for line in lines)
    assert any(line.startswith("seal: seal of night 2026-03-02-1: field previous: ") for line in lines)


def test_a_seal_that_says_otherwise_than_its_envelope_is_named(field: Copy) -> None:
    forger = Forger(field, desk.signer(field.repo))
    blob = field.ref("refs/pantheon/nights/2026-03-02-1:seal.json")
    forger.forge(blob, "blob", forger.objects[blob][1].replace(b'"schema_version": 1', b'"schema_version": 2'))
    assert "seal: seal of night 2026-03-02-1: seal.json is not what was signed in seal.dsse.json" in field.lines()


# --- 31: keys ---------------------------------------------------------------------------------------------------------


def test_a_key_added_in_the_tree_and_in_the_ref_is_not_trusted(field: Copy, tmp_path: Path) -> None:
    """The attacker signs a forged run, and everything above it, with a key of their own, and publishes that key."""
    stranger = Signer.load_or_create(tmp_path / "mine/keys")
    line = f'pantheon@localhost namespaces="git" {stranger.public}\n'
    provenance.write_and_commit(
        field.root, {".pantheon/allowed_signers": line, "allowed_signers": line, "pantheon/allowed_signers": line}, "x"
    )
    run = runs(field)[0]
    forger = Forger(field, stranger)
    blob = blobs(field, run)["merge/output.json"]
    changed = forger.forge(blob, "blob", forger.objects[blob][1].replace(b"true", b"TRUE"))
    text = field.git("show", "refs/pantheon/keys:allowed_signers") + line
    tree = field.repo.write_tree(None, {"allowed_signers": (0o100644, field.repo.write_blob(text.encode()))})
    field.repo.move_ref(
        keys.KEYS,
        field.repo.commit(tree, [field.ref(keys.KEYS)], "keys: 2\n", DAYS[2], stranger),
        field.ref(keys.KEYS),
        "x",
    )
    lines = field.lines()
    new = changed[run.run_commit or ""]
    assert any(line.startswith(f"key: commit {new} ") and "is not in the trust root" in line for line in lines)
    assert any(line.startswith("key: commit ") and "(refs/pantheon/keys)" in line for line in lines)
    assert not any(stranger.fingerprint in signer for signer in field.verify().signers)


def test_a_revoked_key_is_named_as_the_reason(field: Copy) -> None:
    name = desk.signer(field.repo).fingerprint
    keys.revoke(field.repo, name, DAYS[3])
    found = field.verify("1")
    assert found.faults
    assert {(fault.kind, fault.why) for fault in found.faults if fault.kind == "key"} == {("key", f"{name} is revoked")}


def test_a_signature_after_the_end_of_its_key_is_named(field: Copy) -> None:
    old = desk.signer(field.repo)
    keys.rotate(field.repo, DAYS[1])
    pull = json.loads(field.git("show", "refs/pantheon/prs/2/meta:pr.json"))
    tree = field.ref("refs/pantheon/prs/2/meta^{tree}")
    late = field.repo.commit(tree, [field.ref("refs/pantheon/prs/2/meta")], "later\n", DAYS[4], old)
    field.repo.move_ref("refs/pantheon/prs/2/meta", late, field.ref("refs/pantheon/prs/2/meta"), "x")
    assert pull["id"] == 2
    why = f"{old.fingerprint} is not valid after 2026-03-02T02:30:00Z, signed at 2026-03-05T02:30:00Z"
    assert f"key: commit {late} (refs/pantheon/prs/2/meta): {why}" in field.lines()
