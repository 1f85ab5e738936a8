"""The secret scan: every kind is found and hidden wherever it stands, and a whole night leaves none in any ref."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import MakeRepo, git
from detect_secrets.settings import get_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pantheon import artifacts, desk, nights, prompt, prs, redact, review
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.git import Repo
from pantheon.records import Finding, Item, NightReport, Outcome, PullItem, Run, Task
from pantheon.survey import survey
from pantheon.testguard import Edit

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
ROOT = Path(__file__).resolve().parent.parent
LETTERS = string.ascii_letters + string.digits


def rand(count: int, alphabet: str = LETTERS) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(count))


def b64(count: int) -> str:
    return base64.b64encode(secrets.token_bytes(count)).decode()


def pem(name: str, lines: int = 6) -> str:
    body = "\n".join(b64(48) for _ in range(lines))
    return f"-----BEGIN {name}-----\n{body}\n{b64(20)}\n-----END {name}-----"


def jwt() -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": rand(12), "iat": 1}]
    coded = [
        base64.urlsafe_b64encode(json.dumps(p, separators=(",", ":")).encode()).decode().rstrip("=") for p in parts
    ]
    return ".".join([*coded, rand(43)])


# Made anew for every run, so that no file of ours holds one: kind -> (context around it, what must not be kept).
def samples() -> dict[str, tuple[str, str]]:
    low, up, hexa = string.ascii_lowercase + string.digits, string.ascii_uppercase + string.digits, "0123456789abcdef"
    found = {
        "aws id": ("{}", "AK" + "IA" + rand(16, up)),
        "aws secret": ('aws_secret_access_key = "{}"', rand(40)),
        "github": ("{}", "gh" + "p_" + rand(36)),
        "github fine": ("token {}", "github" + "_pat_" + rand(22) + "_" + rand(59)),
        "gitlab": ("{}", "gl" + "pat-" + rand(20)),
        "gitlab before a letter": ("{}é", "gl" + "pat-" + rand(26)),
        "slack": ("{}", "xo" + "xb-" + rand(12, string.digits) + "-" + rand(24)),
        "slack hook": ("{}", "https://hooks.slack" + ".com/services/T" + rand(8) + "/B" + rand(8) + "/" + rand(24)),
        "stripe": ("{}", "sk" + "_live_" + rand(24)),
        "stripe long": ("{}", "sk" + "_live_" + rand(99)),
        "jwt": ("{}", jwt()),
        "basic auth": ("see https://{}@example.org/x", f"ann:{rand(10)}7a"),
        "basic auth signs": ("postgres://{}@db.example.org:5432/x", f"ann:{rand(6)}!$;{rand(6)}"),
        "azure": ("DefaultEndpointsProtocol=https;{}", "Account" + "Key=" + b64(64)),
        "twilio": ("{}", "SK" + rand(32, low)),
        "sendgrid": ("{}", "SG" + "." + rand(22) + "." + rand(43)),
        "discord": ("{}", "M" + rand(23) + "." + rand(6) + "." + rand(27)),
        "npm": ("{}", "npm" + "_" + rand(36)),
        "npmrc": ("//registry.example.org/:_authToken={}", rand(36, hexa)),
        "pypi": ("{}", "pypi-" + "AgEIcHlwaS5vcmc" + rand(80)),
        "openai": ("{}", "sk" + "-" + rand(20) + "T3Blbk" + "FJ" + rand(20)),
        "openai project": ("{}", "sk" + "-proj-" + rand(48)),
        "anthropic": ("{}", "sk" + "-ant-api03-" + rand(80)),
        "hugging face": ("{}", "hf" + "_" + rand(34)),
        "google": ("{}", "AI" + "za" + rand(35)),
        "google oauth": ("{}", "GOC" + "SPX-" + rand(28)),
        "age": ("{}", "AGE-SECRET" + "-KEY-1" + rand(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")),
        "mailchimp": ("{}", rand(32, hexa) + "-us" + "12"),
        "square": ("{}", "sq0" + "csp-" + rand(43)),
        "telegram": ("{}", rand(9, "123456789") + ":" + rand(35)),
        "artifactory": ("x={}", "AK" + "C" + rand(30) + "7a"),
        "ibm": ('ibm_cloud_iam_key: "{}"', rand(41) + "aA7"),
        "ibm cos": ("secret_access_key={}", rand(48, hexa)),
        "softlayer url": ("https://api.softlayer.com/soap/v3.1/{}", rand(64, low)),
        "softlayer": ("softlayer_api_key = {}", rand(64, low)),
        "cloudant": ("cloudant_password={}", rand(64, hexa)),
        "netrc": ("machine example.org login ann password {}", rand(10) + "7a"),
        "netrc lines": ("machine example.org\n  login ann\n  password {}\n", rand(10) + "7a"),
        "authorization": ("Authorization: Bearer {}", rand(40)),
        "vault": ("{}", "hv" + "s." + rand(90)),
        "rsa": ("{}", pem("RSA PRIVATE KEY")),
        "openssh": ("{}", pem("OPENSSH PRIVATE KEY", 8)),
        "pkcs8": ("{}", pem("PRIVATE KEY")),
        "ec": ("{}", pem("EC PRIVATE KEY", 2)),
        "encrypted": ("{}", pem("ENCRYPTED PRIVATE KEY")),
        "pgp": ("{}", pem("PGP PRIVATE KEY BLOCK")),
    }  # fmt: skip
    return found


SAMPLES = samples()
KINDS = sorted(SAMPLES)


def planted(kind: str) -> str:
    context, secret = SAMPLES[kind]
    return context.format(secret)


def traces(kind: str) -> list[bytes]:
    """The pieces of a secret that must not be found: a key's lines one by one, else the whole."""
    secret = SAMPLES[kind][1]
    if "\n" in secret:
        return [line.encode() for line in secret.split("\n")[1:-1]]
    return [secret.split(":", 1)[1].encode() if kind.startswith("basic") else secret.encode()]


def leaks(data: bytes, kind: str) -> bool:
    return any(trace in data for trace in traces(kind))


# --- finding and hiding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_found_and_hidden_as_text_json_and_json_in_json(kind: str) -> None:
    text = f"Before.\n{planted(kind)}\nAfter.\n"
    (secret,) = redact.find(text)
    assert secret.kind
    for data in (
        text,
        json.dumps({"a": text, "b": [1, "x"]}),
        json.dumps({"a": text}, indent=1, ensure_ascii=False) + "\n",
        json.dumps({"answer": json.dumps({"tool": "x", "value": text})}),
        json.dumps(json.dumps(json.dumps([text]))),
        "".join(f"+{line}\n" for line in text.splitlines()),
    ):
        clean, kinds = redact.scrub(data.encode())
        assert kinds, data
        assert not leaks(clean, kind), clean
        assert b"[pantheon: redacted " in clean
        assert clean.count(b"\n") == data.count("\n")
        assert redact.scrub(clean) == (clean, ())
        if data[0] in '{["':
            json.loads(clean)
    assert SAMPLES[kind][1] not in repr(secret)


@pytest.mark.parametrize("kind", KINDS)
def test_unicode_escapes_hide_nothing(kind: str) -> None:
    escaped = "".join(f"\\u{ord(c):04x}" if n % 3 or not c.isalnum() else c for n, c in enumerate(planted(kind)))
    clean, kinds = redact.scrub(f'{{"a":"{escaped}"}}'.encode())
    assert kinds
    assert not leaks(json.loads(clean)["a"].encode(), kind)


def test_a_patch_stays_a_patch_and_other_bytes_stay() -> None:
    block = pem("RSA PRIVATE KEY")
    lines = ["@@ -1,2 +1,9 @@", " caf\udce9", *(f"+{line}" for line in block.splitlines()), "-\udcff old", ""]
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    clean, kinds = redact.scrub(data)
    assert kinds == ("Private Key",)
    assert [line[:1] for line in clean.split(b"\n")] == [line[:1] for line in data.split(b"\n")]
    assert b" caf\xe9" in clean
    assert b"-\xff old" in clean
    removed = data.replace(b"\n+", b"\n-")
    assert [line[:1] for line in redact.scrub(removed)[0].split(b"\n")] == [x[:1] for x in removed.split(b"\n")]


def test_a_key_without_its_end_or_cut_short_is_hidden_as_far_as_it_goes() -> None:
    block = pem("OPENSSH PRIVATE KEY", 30)
    for cut in (block[:200], block[: len(block) // 2], block.rpartition("\n")[0], " ".join(block.split("\n"))[:900]):
        for text in (f"a\n{cut}\nThe end, as it was.", json.dumps([cut, "The end, as it was."])):
            clean, _ = redact.scrub(text.encode())
            assert not any(line.encode() in clean for line in block.split("\n")[1:-1]), clean
            assert b"The end, as it was." in clean


@given(st.binary(max_size=300), st.sampled_from(KINDS), st.binary(max_size=300))
def test_bytes_around_a_secret_stay_as_they_are(before: bytes, kind: str, after: bytes) -> None:
    data = before + b"\n" + planted(kind).encode() + b"\n" + after
    clean, _ = redact.scrub(data)
    assert not leaks(clean, kind)
    assert clean.count(b"\n") == data.count(b"\n")
    if not redact.find(before) and not redact.find(after):
        assert clean.startswith(before)
        assert clean.endswith(after)


LEAVES = st.text(max_size=40) | st.sampled_from([planted(kind) for kind in KINDS])
TREES = st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x), max_leaves=8)


@given(TREES)
def test_json_stays_json(value: object) -> None:
    for ascii_only in (False, True):
        text = json.dumps({"v": value}, ensure_ascii=ascii_only)
        clean = redact.scrub(text.encode("utf-8", "surrogatepass"))[0]
        assert isinstance(json.loads(clean.decode("utf-8", "surrogateescape")), dict)


def detectors() -> Iterator[tuple[str, re.Pattern[str]]]:
    for detector in redact._detectors():
        for pattern in detector.patterns:
            if "(?<=" not in pattern.pattern and "api.softlayer" not in pattern.pattern:  # its dots fit any character
                yield detector.kind, pattern


@pytest.mark.parametrize(("kind", "pattern"), list(detectors()), ids=lambda x: x if isinstance(x, str) else "")
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(data=st.data())
def test_the_cheap_hints_miss_nothing_that_a_pattern_matches(
    kind: str, pattern: re.Pattern[str], data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(pattern, alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
    match = pattern.search(text)
    assert match is not None
    part = redact._secret_part(kind, match)
    if part is not None and part[1] - part[0] >= 16:
        assert redact.find(f"filler {text} filler"), text


def test_clean_text_comes_back_as_it_is() -> None:
    for path in sorted((ROOT / "demo").rglob("*.md")):
        data = path.read_bytes()
        assert redact.scrub(data) == (data, ())
        assert redact.added([Edit(path="docs/x.md", base=None, new=data)]) == ()
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    lines = (
        f'{{"oid":"{digest[:40]}","sha256":"{digest}","task":"0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"}}',
        f"prompt 1 has sha256={digest}",
        "see https://example.org:8080/a/b?c=d and mailto:ann@example.org, http://localhost:80/@x",
        "the key some-very-long-hyphenated-name-of-44-characters-x",
        'sshd_config says: "-----BEGIN CERTIFICATE-----"',
    )
    for line in lines:
        assert redact.find(line) == (), line


@pytest.mark.parametrize(
    "piece",
    [
        *("eyJ", "eyJhbGciOiJI.", "://a:", "-----BEGIN PRIVATE KEY-----", "key = ", "\\n", "password=", "password: 'a"),
        *("//x/:_authToken=", " ", "\\u0041", "machine a login ", "A" * 40 + "=", "aws key ", "AKIA", 'secret="x'),
    ],
)
def test_a_hostile_text_takes_time_in_proportion(piece: str) -> None:
    size = 1 << 17
    data = (piece * (size // len(piece) + 1))[:size].encode()
    started = time.process_time()
    redact.scrub(data)
    redact.added([Edit(path="a.md", base=None, new=data)])
    assert time.process_time() - started < 10


def test_nothing_is_asked_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """detect-secrets can ask a service whether a token is valid. Its step for that is off, and no socket is made."""
    policy = "detect_secrets.filters.common.is_ignored_due_to_verification_policies"
    assert policy not in get_settings().filters
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _: seen.append(event) if watching[0] and event.startswith("socket.") else None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a secret was about to be verified")

    for name in redact._PLUGINS:
        monkeypatch.setattr(redact._plugin(name), "verify", refuse)
    for kind in KINDS:
        redact.find(planted(kind))
        redact.scrub(planted(kind).encode())
        redact.added([Edit(path="a.md", base=None, new=f'password = "{rand(30)}"\n{planted(kind)}\n'.encode())])
    watching[0] = False
    assert seen == []


def test_a_record_of_prompts_stays_readable() -> None:
    prompts = ["You are a clerk.\nTarget: x", f"Read {planted('github')} and\nprompt 9 bytes=4 sha256=00", "ü\n\n", ""]
    data = prompt.record(prompts)
    clean, kinds = redact.scrub(data)
    assert kinds == ("GitHub Token",)
    again = prompt.read_record(clean)
    assert [again[n] for n in (0, 2, 3)] == [prompts[n] for n in (0, 2, 3)]
    assert again[1] == "Read [pantheon: redacted GitHub Token] and\nprompt 9 bytes=4 sha256=00"
    assert b"redacted=1\n" in clean
    assert not leaks(clean, "github")
    assert redact.scrub(clean) == (clean, ())
    for broken in (data[:-1], data + b"x", data.replace(b"bytes=", b"bytes=9", 1)):
        assert not leaks(redact.scrub(broken)[0], "github")


def test_records_keep_their_ids_and_paths() -> None:
    token = planted("github")
    finding = Finding(rule="r", message=f"the title {token} is long")
    item = Item(id="1", task="t", flow="f", target=f"docs/{token}.md", blob="0" * 40, findings=(finding,))
    run = Run(id="ab12cd34", night="n", item=item, base="0" * 40, outcome=Outcome.FAILED, reason=f"no: {token}")
    clean = redact.clean_run(run)
    assert clean.item.target == item.target
    assert not leaks((clean.reason + clean.item.findings[0].message).encode(), "github")
    task = Task(uuid="u", title=token, slug="s", status="ready", path=f"docs/{token}.md", body=f"a {token}")
    assert redact.clean_task(task).path == task.path
    assert not leaks((redact.clean_task(task).title + redact.clean_task(task).body).encode(), "github")


# --- what a change adds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_secret_is_named_by_kind_path_and_line(kind: str) -> None:
    base, new = b"# Note\n\nText.\n", f"# Note\n\n{planted(kind)}\n\nText.\n".encode()
    found = redact.added([Edit(path="docs/a.md", base=base, new=new)])
    assert found
    assert all(path == "docs/a.md" and secret.line >= 3 for path, secret in found)
    assert not leaks(repr(found).encode(), kind)
    other = Edit(path="docs/b.md", base=new, new=base)
    assert redact.added([Edit(path="docs/a.md", base=new, new=b"front\n" + new)]) == ()  # it was there
    assert redact.added([Edit(path="docs/a.md", base=base, new=new), other]) == ()  # it came from another file
    assert redact.added([Edit(path="docs/c.md", old_path="docs/a.md", base=new, new=new)]) == ()  # a rename
    assert redact.added([Edit(path="docs/a.md", base=new, new=base)]) == ()  # it went
    kept = Edit(path="docs/b.md", base=new, new=new + b"more\n")
    assert redact.added([Edit(path="docs/a.md", base=base, new=new), kept]) == found  # copied, not moved


def test_names_and_randomness_count_on_added_lines_alone() -> None:
    lines = [
        f'db_password = "{rand(6)}-{rand(6)}"',
        f'api_key: "{rand(24)}"',
        f"client_secret: {rand(10)}7{rand(10)}",
        f"aGVsbG8 'x{b64(33)}'",
        f'api_token = "{rand(32, "0123456789abcdef")}"',
    ]
    for line in lines:
        assert redact.added([Edit(path="docs/a.md", base=b"x\n", new=f"x\n{line}\n".encode())]), line
        assert redact.added([Edit(path="docs/a.md", base=f"{line}\n".encode(), new=f"{line}\nx\n".encode())]) == ()
    digest = rand(40, "0123456789abcdef")
    harmless = (
        f'lastCommitSha: "{digest}"', f'- "{digest}"', 'uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"',
        f"![x](data:image/png;base64,{b64(300)})", "The secret: keep it simple, and the password is changed monthly.",
        'password: "${DB_PASSWORD}"', 'created_at: "2026-03-01T09:00:00Z"', 'slug: "docs-agile-boards-generated-2025"',
        "password = get_password(user)", 'see "docs/agile/boards/Generated_Overview-2025-08-01/index" for more',
        f"integrity 'sha512-{b64(64)}'",
    )  # fmt: skip
    for line in harmless:
        assert redact.added([Edit(path="docs/a.md", base=b"x\n", new=f"x\n{line}\n".encode())]) == (), line


def test_a_secret_in_a_new_name_counts() -> None:
    token = planted("github")
    ((path, secret),) = redact.added([Edit(path=f"docs/{token}.md", old_path="docs/a.md", base=b"x", new=b"x")])
    assert (path, secret.line) == (f"docs/{token}.md", 0)
    assert redact.added([Edit(path=f"docs/{token}.md", base=b"x", new=b"y")]) == ()


# --- in git ----------------------------------------------------------------------------------------------------------


def everything(repo: Repo, but: str = "") -> dict[str, bytes]:
    """Every object that a ref reaches, by id: as git itself lists and reads them."""
    names = git("rev-list", "--objects", "--all", *(["--not", but] if but else []), cwd=repo.root)
    ids = "".join(f"{line.split()[0]}\n" for line in names.splitlines())
    batch = ["git", "cat-file", "--batch"]
    done = subprocess.run(batch, cwd=repo.root, input=ids.encode(), capture_output=True, check=True)
    found: dict[str, bytes] = {}
    rest = done.stdout
    while rest:
        head, _, rest = rest.partition(b"\n")
        oid, _, size = head.decode().split()
        found[oid], rest = rest[: int(size)], rest[int(size) + 1 :]
    return found


PLACES = ("text", "json", "prompt", "patch", "reason", "finding", "edge", "answer")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), place=st.sampled_from(PLACES), at=st.integers(0, 400), shift=st.integers(-200, 60))
def test_no_object_of_a_stored_run_holds_a_planted_secret(
    make_repo: MakeRepo, tmp_path_factory: pytest.TempPathFactory, kind: str, place: str, at: int, shift: int
) -> None:
    repo = Repo.discover(make_repo(name=rand(12)))
    text = "The harbour has a crane.\n" * 20
    text = text[:at] + "\n" + planted(kind) + "\n" + text[at:]
    head = (artifacts.MAX_BYTES - 200) // 2
    edge = "x" * (head + shift - 1) + "\n" + planted(kind) + "\n" + "y" * artifacts.MAX_BYTES
    files = {
        "text": {"stdout.log": text.encode()},
        "json": {"input.json": json.dumps({"values": {"t": [text]}}, indent=1).encode()},
        "answer": {"tool_calls.jsonl": json.dumps({"answer": json.dumps({"value": text})}).encode() + b"\n"},
        "prompt": {"llm_prompt.txt": prompt.record(["a", text, "b"])},
        "patch": {"diff.patch": "".join(f"+{line}\n" for line in text.splitlines()).encode()},
        "edge": {"stdout.log": edge.encode()},
    }.get(place, {})
    finding = Finding(rule="r", message=text if place == "finding" else "m")
    item = Item(id="1", task="t", flow="f", target="a.md", blob="0" * 40, findings=(finding,))
    run = Run(
        id="ab12cd34",
        night="n",
        item=item,
        base=repo.head().commit,
        outcome=Outcome.FAILED,
        reason=text if place == "reason" else "",
    )
    stored, listed = artifacts.store_run(repo, run, {"n": files}, None, WHEN)
    artifacts.note_runs(repo, {stored.run_commit or "": listed}, WHEN)
    artifacts.summarise(repo, {stored.run_commit or "": f"reason: {text}"}, WHEN)
    artifacts.restore_run(repo, stored.model_copy(update={"reason": text}), WHEN)
    assert not [oid for oid, data in everything(repo).items() if leaks(data, kind)]
    for artifact in listed:
        assert artifact.redacted
        if place == "prompt":
            assert len(prompt.read_record(artifacts.read_artifact(repo, run.id, "n", artifact.name))) == 3
    for line in json.dumps([a.to_json() for a in listed]).splitlines():
        assert not leaks(line.encode(), kind)


def test_a_secret_without_what_it_was_known_by_is_hidden_all_the_same(make_repo: MakeRepo) -> None:
    """A tool makes a name from a title, a model repeats a word: nothing around it says any more what it is."""
    for kind in ("aws secret", "npmrc", "netrc", "basic auth", "ibm cos", "rsa"):
        repo = Repo.discover(make_repo({"a.md": f"# Note\n\n{planted(kind)}\n"}, name=rand(12)))
        files = {
            "a.txt": b"slug: care-" + traces(kind)[0].replace(b"ann:", b"") + b"-x",
            "b.json": json.dumps({"v": [trace.decode() for trace in traces(kind)]}).encode(),
            "llm_prompt.txt": prompt.record(["Choose: " + traces(kind)[-1].decode()]),
        }
        item = Item(id="1", task="t", flow="f", target="a.md", blob="0" * 40, findings=())
        why = f"no: {traces(kind)[0].decode()}"
        run = Run(id="ab12cd34", night="n", item=item, base=repo.head().commit, outcome=Outcome.FAILED, reason=why)
        stored, listed = artifacts.store_run(repo, run, {"n": files}, None, WHEN)
        assert not [oid for oid, data in everything(repo, run.base).items() if leaks(data, kind)]
        assert all(artifact.redacted for artifact in listed)
        assert stored.reason.startswith("no: [pantheon: redacted")
    for common in ("https://user:password@example.org", "machine a login b password password"):
        assert b"the password" in redact.Scrubber([common.encode()]).scrub(b"the password")[0]


def test_what_was_stored_before_there_was_a_scan_is_found(make_repo: MakeRepo) -> None:
    repo = Repo.discover(make_repo())
    files = {
        "n/a.log": b"x" * 1000,
        "n/b.json": json.dumps({"a": f"x\n{planted('rsa')}"}).encode(),
        "n/c.log": b"\xff\n\n" + planted("aws id").encode(),
    }
    tree = repo.write_tree(None, {path: (0o100644, repo.write_blob(data)) for path, data in files.items()})
    found, complete = artifacts.find_secrets(repo, tree)
    assert complete
    assert [(path, secret.kind, secret.line) for path, secret in found] == [
        ("n/b.json", "Private Key", 1),
        ("n/c.log", "AWS Access Key", 3),
    ]
    assert artifacts.find_secrets(repo, tree, 900) == ((), False)
    assert artifacts.find_secrets(repo, tree, sum(map(len, files.values()))) == (found, True)


def test_decisions_and_titles_are_scrubbed_where_they_are_stored(make_repo: MakeRepo) -> None:
    repo = Repo.discover(make_repo())
    head = repo.head().commit
    token = planted("github")
    pull = prs.open_pull(repo, task="u", slug="s", title=f"Use {token}", night="n", onto="main", base=head, tip=head,
                         items=[], when=WHEN, signer=None)  # fmt: skip
    item = PullItem(item="1", run="ab12cd34", target="a.md", commit=head)
    pull = prs.update(repo, pull.model_copy(update={"items": (item,)}), "x", WHEN, None)
    review.reject(repo, pull, items=[], reason=f"it has {token}", when=WHEN, signer=None)
    assert not [oid for oid, data in everything(repo).items() if leaks(data, "github")]
    assert "redacted GitHub Token" in git("notes", f"--ref={prs.DECISIONS}", "show", head, cwd=repo.root)


TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes {0}"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/*.md"]
  acceptance:
    - run: "frontmatter"
---
Please, with {0}.
"""


def play(repo: Repo, work: Path, engine: ScriptedEngine) -> NightReport:
    found = survey(repo, repo.head().commit)
    frozen = nights.freeze(
        repo, found, desk.make_plan(repo, found), budget_s=300, engine="scripted", model="scripted", window=2, now=WHEN,
        signer=desk.signer(repo),
    )  # fmt: skip
    again = nights.thaw(repo, frozen.night.id, lambda base: survey(repo, base))
    assert again.items == frozen.items
    assert again.tasks == frozen.tasks
    return asyncio.run(
        runner.run(
            repo, again, engine, CLOSED, work=work, signer=desk.signer(repo), now=lambda: WHEN,
            progress=runner.Progress(),
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["github", "openssh", "basic auth", "hugging face"])
def test_a_night_keeps_a_secret_only_where_the_user_had_it(make_repo: MakeRepo, tmp_path: Path, kind: str) -> None:
    note = "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday. Bread is baked there.\n\n"
    repo = Repo.discover(
        make_repo({"docs/oven.md": f"{note}{planted(kind)}\n", "docs/tasks/tidy.md": TASK.format("a crane"),
                   "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night by the harbour office.\n"})
    )  # fmt: skip
    base = repo.head().commit
    report = play(repo, tmp_path / "work", ScriptedEngine())
    assert {run.outcome for run in report.runs} == {Outcome.ACCEPTED}, [run.reason for run in report.runs]
    holding = {oid for oid, data in everything(repo, base).items() if leaks(data, kind)}
    note_now = git("rev-parse", f"{report.prs[0].tip}:docs/oven.md", cwd=repo.root).strip()
    assert holding == {note_now}  # the user's own line, in the note that the user asked to have changed
    listed = [a for item in report.prs[0].items if item.run for a in artifacts.read_notes(repo, item.commit)]
    assert any(a.redacted for a in listed)
    for artifact in listed:
        assert len(artifacts.read_artifact(repo, artifact.run, artifact.node, artifact.name)) == artifact.size


def test_a_secret_that_an_agent_adds_is_refused_and_reached_by_no_ref(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = Repo.discover(
        make_repo({"docs/oven.md": "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday.\n",
                   "docs/tasks/tidy.md": TASK.format("a crane")})
    )  # fmt: skip
    work = tmp_path / "work"

    def attack(_: str, schema: dict[str, object]) -> str | None:
        for note in (work / "worktrees").glob("*/docs/oven.md"):
            text = note.read_bytes()
            if text.startswith(b"---\n") and not leaks(text, "github"):
                note.write_bytes(text.replace(b"---\n", f"---\ntoken: '{planted('github')}'\n".encode(), 1))
        return None

    report = play(repo, work, ScriptedEngine(attack))
    (run,) = report.runs
    assert run.outcome is Outcome.FAILED
    assert re.search(r"a secret is added: GitHub Token in docs/oven\.md, line \d+", run.reason), run.reason
    assert report.prs == ()
    assert not [oid for oid, data in everything(repo).items() if leaks(data, "github")]
    patch = artifacts.read_artifact(repo, run.id, "merge", "diff.patch")
    assert b"+token: '[pantheon: redacted GitHub Token]'\n" in patch


def test_a_secret_in_a_name_stays_out_of_every_message_and_prompt(make_repo: MakeRepo, tmp_path: Path) -> None:
    """The tree has to hold the name, and the queue the path; nothing else does."""
    token = planted("hugging face")
    note = "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday.\n"
    repo = Repo.discover(make_repo({f"docs/{token}.md": note, "docs/tasks/tidy.md": TASK.format("a crane")}))
    (run,) = play(repo, tmp_path / "work", ScriptedEngine()).runs
    assert run.outcome is Outcome.ACCEPTED, run.reason
    assert run.item.target == f"docs/{token}.md"
    messages = git("log", "--all", "--format=%B%N", "--notes=pantheon/*", cwd=repo.root)
    assert "redacted Hugging Face Token" in messages
    assert not leaks(messages.encode(), "hugging face")
    for path, entry in repo.entries(run.run_commit or "").items():
        if path != artifacts.RUN_FILE:
            assert not leaks(repo.read_blob(entry.oid), "hugging face"), path


def test_secrets_in_a_task_and_in_a_finding_stay_out_of_the_nights_files(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = Repo.discover(
        make_repo({"docs/oven.md": "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday.\n",
                   "docs/tasks/tidy.md": TASK.format(planted("github"))})
    )  # fmt: skip
    base = repo.head().commit
    report = play(repo, tmp_path / "work", ScriptedEngine())
    holding = {oid for oid, data in everything(repo, base).items() if leaks(data, "github")}
    done = git("rev-parse", f"{report.prs[0].tip}:docs/tasks/tidy.md", cwd=repo.root).strip()
    assert holding <= {done}  # the user's own task file, with its status set to done
    assert "redacted GitHub Token" in report.prs[0].title
