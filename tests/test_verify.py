"""`verify` on two real nights: clean when they are, and no byte of theirs can be changed without being named."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import provenance
import pytest
from provenance import Copy, Forger, loose, object_path, own_git, parse

from pantheon import reader
from pantheon.errors import RepositoryError
from pantheon.ledger import differences
from pantheon.signers import Trust
from pantheon.verify import Verdict, load_trust, verify

SEED = 20260301
BATCH = 10  # artifacts changed at once: none hides another, and each must be named


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The scenario as it is; for tests that put back what they change."""
    return provenance.copy(tmp_path_factory, tmp_path_factory.mktemp("verify") / "repo")


@pytest.fixture(scope="module")
def forger(shared: Copy, tmp_path_factory: pytest.TempPathFactory) -> Forger:
    with own_git(tmp_path_factory.mktemp("home")):
        return Forger(shared)


@pytest.fixture(scope="module")
def trust(shared: Copy) -> Trust:
    return load_trust(shared.common)


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    return provenance.copy(tmp_path_factory, tmp_path / "copy")


def split(forger: Forger) -> tuple[list[str], list[str]]:
    """(artifacts, all else) among the objects of the two nights."""
    runs = [name for name in forger.refs if name.startswith("refs/pantheon/runs/")]
    tops = {oid for name in runs for oid in forger.copy.git("rev-parse", f"{name}^{{tree}}").split()}
    nodes = {below for top in tops for _, mode, below in provenance.entries(forger.objects[top][1]) if mode == 0o040000}
    blobs = {blob for node in nodes for _, _, blob in provenance.entries(forger.objects[node][1])}
    whole = {oid for oid, (_, data) in forger.objects.items() if data}  # an empty one has no byte to change
    return sorted(blobs & whole), sorted(whole - blobs)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """`data` with one byte, anywhere, made another one."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([(data[at] + rng.randrange(1, 256)) % 256]) + data[at + 1 :]


def batches(forger: Forger, rng: random.Random, artifacts: int, others: int) -> Iterator[list[str]]:
    small, large = split(forger)
    for _ in range(artifacts // BATCH):
        yield rng.sample(small, BATCH)
    for _ in range(others):
        yield [rng.choice(large)]


def named(found: Verdict, what: str) -> bool:
    return any(what in fault.where for fault in found.faults)


# --- clean ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["all", None, "1", "2", "2026-03-01-1", "2026-03-02-1"])
def test_what_nobody_touched_verifies(shared: Copy, what: str | None) -> None:
    found = shared.verify(what)
    assert found.faults == (), shared.lines(what)
    assert found.said == ()
    assert found.runs > 0
    assert len(found.signers) == 1


def test_everything_of_ours_is_read(shared: Copy, forger: Forger, trust: Trust) -> None:
    ledgers = []
    init = reader.Store.__init__

    class Spy(reader.Store):
        def __init__(self, *args: object) -> None:
            init(self, *args)  # type: ignore[arg-type]
            ledgers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pantheon.ledger.Store", Spy)
        verify(shared.common, trust, "all")
    assert set(forger.objects) <= set(ledgers[0]._seen)


def test_after_gc_it_verifies_from_the_pack(field: Copy) -> None:
    field.git("reflog", "expire", "--expire=now", "--all")
    field.git("gc", "-q", "--prune=now")
    assert not list(field.common.glob("objects/??/*"))
    assert field.lines() == []


@pytest.mark.parametrize("what", ["3", "2026-03-09-1", "nonsense"])
def test_what_is_not_there_is_said(shared: Copy, what: str) -> None:
    with pytest.raises(RepositoryError, match="no such"):
        shared.verify(what)


def test_without_a_trust_root_it_says_how_to_get_one(field: Copy) -> None:
    (field.common / "pantheon/allowed_signers").unlink()
    with pytest.raises(RepositoryError, match="no trust root here") as raised:
        field.verify()
    assert raised.value.hint == "git pantheon keys accept"


# --- one byte ---------------------------------------------------------------------------------------------------------


def test_a_byte_of_an_objects_content_is_found(shared: Copy, forger: Forger, trust: Trust) -> None:
    """The object keeps its name, its content is another: 580 times."""
    rng = random.Random(SEED)
    for chosen in batches(forger, rng, 500, 80):
        kept = {oid: object_path(shared.common, oid).read_bytes() for oid in chosen if forger.objects[oid][1]}
        for oid in kept:
            kind, data = forger.objects[oid]
            path = object_path(shared.common, oid)
            path.chmod(0o644)
            path.write_bytes(loose(kind, flipped(data, rng)))
        found = verify(shared.common, trust, "all")
        for oid, raw in kept.items():
            object_path(shared.common, oid).write_bytes(raw)
            assert named(found, oid), f"{oid} {forger.paths[oid]}"


def test_a_byte_of_an_objects_file_is_found(shared: Copy, forger: Forger, trust: Trust) -> None:
    """As it lies on the disk, compressed, also where the content stays the same: 1900 times."""
    rng = random.Random(SEED + 1)
    for chosen in batches(forger, rng, 1700, 200):
        kept = {oid: object_path(shared.common, oid).read_bytes() for oid in chosen}
        for oid, raw in kept.items():
            path = object_path(shared.common, oid)
            path.chmod(0o644)
            path.write_bytes(flipped(raw, rng))
        found = verify(shared.common, trust, "all")
        for oid, raw in kept.items():
            object_path(shared.common, oid).write_bytes(raw)
            assert named(found, oid), f"{oid} {forger.paths[oid]}"


def test_a_byte_of_a_ref_is_found(shared: Copy, forger: Forger, trust: Trust) -> None:
    """Loose, five refs at a time: 400 times."""
    rng = random.Random(SEED + 2)
    for _ in range(80):
        kept = {name: (shared.common / name).read_bytes() for name in rng.sample(sorted(forger.refs), 5)}
        for name, raw in kept.items():
            (shared.common / name).write_bytes(flipped(raw, rng))
        found = verify(shared.common, trust, "all")
        for name, raw in kept.items():
            (shared.common / name).write_bytes(raw)
            assert named(found, name), name


def test_a_byte_of_a_packed_ref_is_found(field: Copy) -> None:
    """Of the lines of ours in packed-refs, the file's header and the line ends included: 120 times."""
    rng = random.Random(SEED + 3)
    field.git("pack-refs", "--all", "--prune")
    path, trusted = field.common / "packed-refs", load_trust(field.common)
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    ours = [n for n, line in enumerate(lines) if b"pantheon/" in line or n == 0]
    for _ in range(120):
        number = rng.choice(ours)
        path.write_bytes(b"".join([*lines[:number], flipped(lines[number], rng), *lines[number + 1 :]]))
        found = verify(field.common, trusted, "all")
        name = lines[number].split()[1].decode() if number else "packed-refs"
        assert named(found, name) or named(found, "packed-refs"), lines[number]
    path.write_bytes(raw)


def test_a_forged_byte_under_fitting_hashes_is_found(shared: Copy, forger: Forger, trust: Trust) -> None:
    """Trees, commits, notes, recorded ids and refs rebuilt around the change, signatures as they were: 150 times."""
    rng = random.Random(SEED + 4)
    for _ in range(150):
        oid = rng.choice(sorted(forger.objects))
        kind, data = forger.objects[oid]
        if not data:
            continue
        changed = forger.forge(oid, kind, flipped(data, rng))
        found = verify(shared.common, trust, "all")
        forger.restore()
        made = set(changed.values())
        assert found.faults, f"{oid} {forger.paths[oid]}"
        assert any(fault.kind in ("signature", "key", "object") for fault in found.faults)
        assert any(new in fault.where or new in fault.why for fault in found.faults for new in made), found.faults[:3]


def test_bytes_of_a_signature_are_found_by_the_signature(shared: Copy, forger: Forger, trust: Trust) -> None:
    """The tip of every ref, one byte of its armour changed, under fitting hashes: the fault is the signature's."""
    rng = random.Random(SEED + 5)
    for name, tip in forger.refs.items():
        kind, data = forger.objects[tip]
        start, end = data.index(b"gpgsig "), data.index(b"-----END SSH")
        changed = forger.forge(tip, kind, data[:start] + flipped(data[start:end], rng) + data[end:])
        found = verify(shared.common, trust, "all")
        forger.restore()
        kinds = {fault.kind for fault in found.faults if changed[tip] in fault.where}
        assert kinds & {"signature", "key", "object"}, name
    assert verify(shared.common, trust, "all").faults == ()


# --- what is odd about a loose file -----------------------------------------------------------------------------------


def test_a_loose_file_that_inflates_to_the_same_content_is_found(shared: Copy, forger: Forger, trust: Trust) -> None:
    rng = random.Random(SEED + 6)
    oid = next(oid for oid in sorted(forger.objects) if len(forger.objects[oid][1]) > 2000)
    kind, data = forger.objects[oid]
    whole = b"%s %d\0" % (kind.encode(), len(data)) + data
    path = object_path(shared.common, oid)
    raw = path.read_bytes()
    path.chmod(0o644)
    padded = bytearray(raw)
    padded[-5] |= 0x80  # the last byte before the checksum has unused bits, unless this one is used
    cases = {
        "another level": zlib.compress(whole, 9),
        "a byte behind": raw + bytes([rng.randrange(256)]),
        "cut short": raw[:-1],
        "level in the header": raw[:1] + b"\xda" + raw[2:],
        "padding": bytes(padded) if bytes(padded) != raw else raw[:-5] + bytes([raw[-5] & 0x7F]) + raw[-4:],
    }
    for case, changed in cases.items():
        path.write_bytes(changed)
        found = verify(shared.common, trust, "all")
        path.write_bytes(raw)
        assert named(found, oid), case


def test_another_zlib_is_said_and_is_no_fault(field: Copy) -> None:
    """A fetch by a git with another compressor writes other files: all of them differ, none is at fault."""
    levels = [1, 9, 6]
    for number, path in enumerate(sorted(field.common.glob("objects/??/*"))):
        kind, data = parse(path)
        path.chmod(0o644)
        whole = b"%s %d\0" % (kind.encode(), len(data)) + data
        path.write_bytes(zlib.compress(whole, levels[number % 3]))
    found = field.verify()
    assert found.faults == ()
    assert "compressed by another zlib" in found.said[0]


def test_a_damaged_pack_or_index_is_named(field: Copy) -> None:
    rng = random.Random(SEED + 7)
    field.git("gc", "-q", "--prune=now")
    for suffix in ("pack", "idx"):
        (path,) = field.common.glob(f"objects/pack/*.{suffix}")
        raw = path.read_bytes()
        path.chmod(0o644)
        for _ in range(25):
            path.write_bytes(flipped(raw, rng))
            found = field.verify()
            assert any(path.name in fault.where for fault in found.faults), found.faults[:3]
        path.write_bytes(raw)
    assert field.lines() == []


def test_a_damaged_commit_graph_is_named(field: Copy) -> None:
    field.git("commit-graph", "write", "--reachable")
    path = field.common / "objects/info/commit-graph"
    assert field.lines() == []
    path.chmod(0o644)
    path.write_bytes(flipped(path.read_bytes(), random.Random(SEED)))
    assert [line.split(": ")[1] for line in field.lines()] == [str(path)]


def test_objects_may_be_borrowed(field: Copy, tmp_path: Path) -> None:
    field.git("clone", "-q", "--shared", "--bare", str(field.root), str(tmp_path / "one.git"))
    field.git("clone", "-q", "--shared", "--bare", str(tmp_path / "one.git"), str(tmp_path / "two.git"))
    refs = ("+refs/pantheon/*:refs/pantheon/*", "+refs/notes/pantheon/*:refs/notes/pantheon/*")
    field.git("-C", str(tmp_path / "two.git"), "fetch", "-q", str(field.root), *refs)
    found = verify(tmp_path / "two.git", load_trust(field.common), "all")
    assert found.faults == ()
    assert found.runs == 7


def test_a_replace_ref_on_one_of_ours_is_named(field: Copy) -> None:
    tip = field.ref("refs/pantheon/prs/2/r1")
    field.git("replace", tip, field.ref("main"))
    assert f"ref: refs/replace/{tip}: it shows another object in the place of one of ours" in field.lines()


# --- never a traceback ------------------------------------------------------------------------------------------------


def mangled(data: bytes, rng: random.Random) -> bytes:
    """Worse than a byte: cut, doubled, emptied, deep, other types in the JSON, other bytes in a run."""
    at = rng.randrange(len(data) + 1)
    value = rng.choice([b"7", b"null", b"[]", b"{}", b'"\\ud800"', b"1e999"])
    ways: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: data + data,
        lambda: b"",
        lambda: b"[" * 100_000,
        lambda: b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n",
        lambda: re.sub(rb'"[^"\n]{1,60}"(?=[,}\]\n])', lambda _: value, data),
        lambda: re.sub(rb"\d+", lambda _: b"9" * rng.randrange(1, 30), data, count=3),
        lambda: data[:at] + rng.randbytes(20) + data[at:],
        lambda: rng.randbytes(300),
        lambda: data.replace(b"\n", b"\r\n"),
    ]
    return rng.choice(ways)()


def test_nothing_it_meets_makes_it_fall(shared: Copy, forger: Forger, trust: Trust) -> None:
    rng = random.Random(SEED + 8)
    for _ in range(100):
        oid = rng.choice(sorted(forger.objects))
        kind, data = forger.objects[oid]
        changed = mangled(data, rng)
        if changed == data:
            continue
        kind = rng.choice([kind, kind, kind, "blob", "tree", "commit", "tag"])
        try:
            forger.forge(oid, kind, changed)
            assert verify(shared.common, trust, "all").faults
        finally:
            forger.restore()


def test_hostile_names_and_files_in_the_ref_directories_do_no_harm(field: Copy) -> None:
    place = field.common / "refs/pantheon/runs/zz"
    place.mkdir()
    (place / "a\nb").write_bytes(b"\xff" * 50)
    (place / "link").symlink_to("/etc/passwd")
    (field.common / "refs/pantheon/prs/9").mkdir()
    (field.common / "refs/pantheon/prs/9/meta").write_bytes(b"ref: refs/heads/main\n")
    (field.common / "refs/pantheon/stranger").write_text(field.ref("main") + "\n")
    lines = field.lines()
    assert "ref: refs/pantheon/stranger: Pantheon knows no such ref" in lines
    for name in ("zz/a", "zz/link", "prs/9/meta"):
        assert any(name in line for line in lines), name


# --- small parts ------------------------------------------------------------------------------------------------------


def test_differences_name_the_field() -> None:
    one = {"a": [1, {"b": "x"}], "c": 1}
    two = {"a": [1, {"b": "y"}], "d": 2}
    assert [path for path, _, _ in differences(one, two)] == ["a[1].b", "c", "d"]
    assert list(differences({"a": 1}, {"a": 1})) == []


def test_a_verdict_is_json(shared: Copy) -> None:
    found = json.loads(shared.verify("1").model_dump_json())
    assert set(found) >= {"faults", "said", "runs", "commits", "notes", "signers"}


# --- what a person's own git does to notes ----------------------------------------------------------------------------


def rebase(copy: Copy) -> str:
    """Rewrite what was accepted, as `git pull --rebase` does, with the configuration that `init` writes."""
    copy.git("config", "notes.rewriteRef", "refs/notes/pantheon/*")
    copy.git("config", "notes.rewriteMode", "cat_sort_uniq")
    first = copy.git("rev-list", "--max-parents=0", "main").strip()
    copy.git("rebase", "-q", "--force-rebase", first)
    return copy.git("log", "--format=%H", "--author=Pantheon", "-1").strip()


def test_notes_that_a_rebase_copied_are_no_fault_and_no_proof(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        rewritten = rebase(field)
    assert "Pantheon-Run" in field.git("log", "-1", "--format=%B", rewritten)
    assert field.git("notes", "--ref=refs/notes/pantheon/attestations", "show", rewritten)
    found = field.verify()
    assert found.faults == ()
    assert any("were copied by git to commits that you rewrote" in text for text in found.said)
    assert field.verify(None).faults == ()


def test_a_copy_of_notes_that_stood_there_already_is_no_fault(field: Copy, tmp_path: Path) -> None:
    """A squash of runs whose summaries are the same copies them twice: the second time nothing changes."""
    with own_git(tmp_path):
        for name in ("summary", "attestations"):
            ref = f"refs/notes/pantheon/{name}"
            again = field.git("commit-tree", "-p", ref, "-m", "Notes added by 'git notes copy'", f"{ref}^{{tree}}")
            field.git("update-ref", ref, again.strip())
    assert field.verify().faults == ()
    assert field.verify(None).faults == ()


def test_a_copy_to_a_commit_that_is_no_rewrite_is_a_fault(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        source = field.git("log", "--format=%H", "--author=Pantheon", "-1", "main").strip()
        field.git("notes", "--ref=refs/notes/pantheon/attestations", "copy", source, "main")
    tip = field.ref("refs/notes/pantheon/attestations")
    lines = field.lines()
    where = f"commit {tip} (refs/notes/pantheon/attestations)"
    assert f"signature: {where}: made by Ann Author <ann@example.org>, not by Pantheon <pantheon@localhost>" in lines
    assert any("is no commit of a run or a PR" in line and field.ref("main") in line for line in lines)


def test_a_rebase_that_also_changes_a_note_is_a_fault(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        rebase(field)
        commit = field.git("log", "--format=%H", "--author=Pantheon", "-1", "refs/pantheon/prs/1/r1").strip()
        field.git("notes", "--ref=refs/notes/pantheon/decisions", "append", "-m", "{}", commit)
    assert any(line.startswith("signature: commit ") and "notes/pantheon/decisions" in line for line in field.lines())
