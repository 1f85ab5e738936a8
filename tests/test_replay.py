"""Runs that run again: with the same bytes, through another version of an agent, and whole nights without a model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, MakeRepo, git, write_files
from test_night import CLOSED, NOTES, WHEN, build, freeze, night
from test_session import typed

from pantheon import artifacts, config, desk, nights, recorded, rehearsal
from pantheon import night as runner
from pantheon.engine import ScriptedEngine
from pantheon.errors import PantheonError, RepositoryError, TrustError
from pantheon.git import Repo
from pantheon.places import places
from pantheon.prompt import record
from pantheon.records import NightReport, NodeState, Outcome, Run, pretty
from pantheon.replay import open_stage, replay_node
from pantheon.shadow import shadow_of

OVEN = "docs/oven.md"
AGENT = ".pantheon/agents/doc.frontmatter.toml"
PROMPT = ".pantheon/prompts/doc.frontmatter.j2"
Replayed = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def again(capsys: pytest.CaptureFixture[str]) -> Replayed:
    """`again(repo, run, **options)`: the exit code of a replay and what it prints as JSON. It changes nothing."""

    def run(repo: Repo, name: str | None, **options: Any) -> tuple[int, dict[str, Any]]:
        given = {"node": None, "agent": None, "all_of": None, **options}
        before = snapshot(repo.root)
        capsys.readouterr()
        try:
            code = rehearsal.replay(repo, places(os.environ), name, quiet=True, as_json=True, **given)
        finally:
            assert snapshot(repo.root) == before
            assert not list(Path(os.environ["XDG_CACHE_HOME"], "git-pantheon").glob("shadow-*"))
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def kept() -> dict[str, NightReport]:
    """The report of the night that several tests look back at, once it ran."""
    return {}


@pytest.fixture
def past(
    kept: dict[str, NightReport], make_repo: MakeRepo, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Repo, NightReport]:
    """A repository of the test's own after a night over the notes; the night itself runs once."""
    place = tmp_path_factory.getbasetemp() / "replay-past"
    if not kept:
        repo = build(make_repo)
        kept["past"] = night(repo, tmp_path)
        shutil.copytree(repo.root, place)
    shutil.rmtree(tmp_path / "repo", ignore_errors=True)
    shutil.copytree(place, tmp_path / "repo")
    return Repo.discover(tmp_path / "repo"), kept["past"]


def snapshot(root: Path) -> dict[str, str]:
    """Every file of a repository with its digest, its directories too."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def of(report: NightReport, target: str = OVEN) -> Run:
    return next(run for run in report.runs if run.item.target == target)


def packaged(*parts: str) -> str:
    return config.packaged(*parts).read_text()


def tamper(repo: Repo, run: Run, files: Mapping[str, bytes | None]) -> None:
    """Put other artifacts in place of a run's own, as somebody who can write refs could."""
    entries = repo.entries(run.run_commit or "")
    changes = {path: None if data is None else (0o100644, repo.write_blob(data)) for path, data in files.items()}
    assert set(changes) <= set(entries)
    tree = repo.write_tree(repo.tree_of(run.run_commit or ""), changes)
    commit = repo.commit(tree, repo.commit_info(run.run_commit or "").parents, "run\n", WHEN)
    repo.move_ref(artifacts.run_ref(run.id), commit, run.run_commit, "tampered")


def read(repo: Repo, run: Run, path: str) -> bytes:
    return artifacts.read_artifact(repo, run.id, *path.split("/"))


def test_every_node_is_rebuilt_and_every_prompt_gets_its_answer_again(
    past: tuple[Repo, NightReport], again: Replayed
) -> None:
    repo, report = past
    for run in (of(report), of(report, "docs/--title Boats.md")):
        code, said = again(repo, run.id[:10])
        assert (code, said["same"], said["notes"]) == (0, True, [])
        nodes = {one["node"]: one for one in said["nodes"]}
        assert set(nodes) == {name for name, state in run.nodes.items() if state != NodeState.SKIPPED}
        assert all(one["rebuilt"] for one in nodes.values()), nodes
        answers = [answer for one in nodes.values() for answer in one["answers"]]
        assert len(answers) >= 4
        assert {answer["state"] for answer in answers} == {"same"}
    assert again(repo, of(report).result, node="checks")[1]["nodes"][0]["run"] == of(report).id


def test_another_answer_is_shown_with_its_place(
    make_repo: MakeRepo, tmp_path: Path, again: Replayed, capsys: pytest.CaptureFixture[str]
) -> None:
    def last(prompt: str, schema: dict[str, Any]) -> str | None:
        field = schema.get("properties", {}).get("field", {})
        if field == {"const": "description"}:
            return json.dumps(
                {"tool": "set_field", "field": "description", "value": schema["properties"]["value"]["enum"][-1]}
            )
        return None

    repo = build(make_repo)
    report = night(repo, tmp_path, ScriptedEngine(last))
    codes = {run.item.target: again(repo, run.id, node="frontmatter") for run in report.runs}
    _, said = next(found for found in codes.values() if found[0] == 1)
    (node,) = said["nodes"]
    assert node["rebuilt"], "only the engine answered otherwise"
    (answer,) = [one for one in node["answers"] if one["state"] == "different"]
    assert "the answer differs at character" in answer["why"]
    assert answer["answer"] != answer["recorded"]
    run = next(run for run in report.runs if run.id == node["run"])
    assert rehearsal.replay(
        repo, places(os.environ), run.id, node=None, agent=None, all_of=None, quiet=True, as_json=False
    )
    text = capsys.readouterr().out
    assert "frontmatter: prompt" in text
    assert f"next: git pantheon run {run.id[:12]} frontmatter/llm_prompt.txt" in text


def test_a_whole_night_is_replayed_and_counted(past: tuple[Repo, NightReport], again: Replayed) -> None:
    repo, report = past
    code, said = again(repo, None, all_of=report.night.id)
    assert (code, said["same"]) == (0, True)
    assert {one["run"] for one in said["nodes"]} == {run.id for run in report.runs}
    text = typed(repo.root, "replay", "--all-of", report.night.id, "--node", "review-a")
    assert "review-a" in text
    assert "8/8 same" in text
    assert "frontmatter" not in text


# --- what was tampered with, or is too old ---------------------------------------------------------------------------


def test_a_prompt_that_was_changed_is_noticed_whatever_was_changed_with_it(
    past: tuple[Repo, NightReport], again: Replayed
) -> None:
    repo, report = past
    run = of(report)
    prompts = [text.replace("oven", "kiln") for text in recorded.Stored.load(repo, run).takes("review-a")[0].prompts]
    forged = record(prompts)
    tamper(repo, run, {"review-a/llm_prompt.txt": forged[:-20] + b"x" * 19 + b"\n"})
    with pytest.raises(RepositoryError, match="does not match its header"):
        again(repo, run.id, node="review-a")
    run = artifacts.load_run(repo, run.id)
    tamper(repo, run, {"review-a/llm_prompt.txt": forged})
    code, said = again(repo, run.id, node="review-a")
    (node,) = said["nodes"]
    assert (code, node["rebuilt"], node["answers"][0]["intact"]) == (1, False, False)
    assert "prompt 1 differs at character" in node["why"][0]
    run = artifacts.load_run(repo, run.id)
    calls = read(repo, run, "review-a/tool_calls.jsonl")
    for texts in zip(_prompts_before(prompts), prompts, strict=True):
        old, new = (hashlib.sha256(text.encode()).hexdigest().encode() for text in texts)
        calls = calls.replace(old, new)
    tamper(repo, run, {"review-a/tool_calls.jsonl": calls})
    code, said = again(repo, run.id, node="review-a")
    (node,) = said["nodes"]
    assert node["answers"][0]["intact"], "its digest was forged as well"
    assert (code, node["rebuilt"]) == (1, False), "but the base commit does not give this prompt"


def _prompts_before(prompts: list[str]) -> list[str]:
    return [text.replace("kiln", "oven") for text in prompts]


def test_a_run_from_before_times_and_criteria_were_kept_is_still_the_same(
    past: tuple[Repo, NightReport], again: Replayed
) -> None:
    repo, report = past
    run = of(report)
    output = json.loads(read(repo, run, "review-a/output.json"))
    assert output.pop("criteria")
    output.pop("confidence")
    lines = [json.loads(line) for line in read(repo, run, "review-a/tool_calls.jsonl").splitlines()]
    for call in lines:
        for name in ("queue_s", "prefill_s", "engine_s", "confidence", "cause"):
            call.pop(name)
    calls = "".join(json.dumps(call) + "\n" for call in lines).encode()
    tamper(repo, run, {"review-a/output.json": pretty(output), "review-a/tool_calls.jsonl": calls})
    code, said = again(repo, run.id, node="review-a")
    assert code == 0, said


@pytest.mark.parametrize(
    ("path", "old", "new", "why"),
    [
        ("frontmatter/output.json", b'"open": []', b'"open": ["x"]', "the output differs"),
        ("frontmatter/tool_calls.jsonl", b'"by":"host","', b'"by":"model","', "call"),
        ("frontmatter/schemas.jsonl", b'"const":"set_field"', b'"const":"other_one"', "the schemas"),
        ("checks/diff.patch", b"+title", b"+TITLE", "diff.patch differs"),
        ("checks/output.json", b'"passed": true', b'"passed": false', "what it said differs"),
        ("merge/output.json", b'"accepted": true', b'"accepted": false', "what it said differs"),
    ],
)
def test_an_artifact_that_was_changed_is_noticed(
    past: tuple[Repo, NightReport], again: Replayed, path: str, old: bytes, new: bytes, why: str
) -> None:
    repo, report = past
    run = of(report)
    data = read(repo, run, path)
    assert old in data
    tamper(repo, run, {path: data.replace(old, new, 1)})
    code, said = again(repo, run.id, node=path.partition("/")[0])
    assert code == 1
    assert any(why in text for text in said["nodes"][0]["why"]), said


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("review-a/input.json", b"[]"),
        ("review-a/input.json", b'{"values": 3}'),
        ("review-a/input.json", b"{" * 100_000),
        ("review-a/tool_calls.jsonl", b'{"step": 1}\n'),
        ("review-a/tool_calls.jsonl", b"\xff\xfe\n"),
        ("review-a/llm_prompt.txt", b"prompt 1\n"),
        ("review-a/llm_prompt.txt", b"prompt 1 bytes=-4 sha256=00\n"),
        ("review-a/schemas.jsonl", b'{"a": 1}\n{"b": 2}\n{"c": 3}\n'),
        ("review-a/output.json", b"x" * (3 << 20)),
    ],
)
def test_artifacts_that_are_none_are_named_and_nothing_breaks(
    past: tuple[Repo, NightReport], again: Replayed, path: str, data: bytes
) -> None:
    repo, report = past
    run = of(report)
    tamper(repo, run, {path: data})
    with pytest.raises(RepositoryError, match=r"cannot replay: run .*, review-a/") as caught:
        again(repo, run.id, node="review-a")
    assert caught.value.hint == "git pantheon verify --all"


def test_a_run_of_a_version_that_kept_no_schemas_is_told_so(past: tuple[Repo, NightReport], again: Replayed) -> None:
    repo, report = past
    run = of(report)
    tamper(repo, run, {"frontmatter/schemas.jsonl": None})
    with pytest.raises(RepositoryError, match="without the schemas of the answers"):
        again(repo, run.id)
    assert again(repo, run.id, node="validate")[0] == 0, "the others are as they were"


def test_what_cannot_be_replayed_is_said(past: tuple[Repo, NightReport], again: Replayed) -> None:
    repo, report = past
    run = of(report)
    for name, options, why in (
        (None, {}, "either a run or"),
        ("ffff", {}, "no run has that id"),
        ("main", {}, "no run has that id"),
        (run.id, {"node": "rename"}, "it was skipped"),
        (run.id, {"node": "nope"}, "its nodes: checks"),
        (run.id, {"agent": "doc.rename@1"}, "no node of run"),
        (run.id, {"agent": "doc.rename@9"}, "HEAD's history has doc.rename@1"),
        (run.id, {"agent": "no.such"}, "no such agent"),
        (run.id, {"agent": "a b"}, "is no agent"),
        (None, {"all_of": "2020-01-01-1"}, "no run is of it"),
    ):
        with pytest.raises(PantheonError) as caught:
            again(repo, name, **options)
        assert why in str(caught.value)
        assert caught.value.hint


def test_a_secret_that_was_hidden_in_a_prompt_is_no_difference(
    make_repo: MakeRepo, tmp_path: Path, again: Replayed
) -> None:
    secret = "ghp_" + "a1B2" * 9
    note = f"# Care of the oven\n\nThe oven is cleaned every Friday. Its key is {secret} and nobody knows it.\n"
    repo = build(make_repo, **{OVEN: note})
    run = of(night(repo, tmp_path))
    assert b"redacted" in read(repo, run, "frontmatter/llm_prompt.txt")
    code, said = again(repo, run.id, node="frontmatter")
    (node,) = said["nodes"]
    assert (code, node["rebuilt"]) == (0, True), node["why"]
    assert "unsent" in {answer["state"] for answer in node["answers"]}
    assert secret not in json.dumps(said)


# --- other versions --------------------------------------------------------------------------------------------------


def newer(repo: Repo, prompt: str, version: int) -> None:
    """A commit with another version of doc.frontmatter, trusted."""
    agent = packaged("agents", "doc.frontmatter.toml").replace("version = 1", f"version = {version}")
    write_files(repo.root, {AGENT: agent, PROMPT: prompt})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", f"doc.frontmatter {version}", cwd=repo.root)


def test_an_old_night_is_rebuilt_with_the_prompts_of_its_own_base(
    make_repo: MakeRepo, tmp_path: Path, again: Replayed
) -> None:
    old = packaged("prompts", "doc.frontmatter.j2").replace("{% block user %}", "{% block user %}\nAs we say here:")
    repo = build(make_repo, **{PROMPT: old})
    run = of(night(repo, tmp_path))
    assert b"As we say here" in read(repo, run, "frontmatter/llm_prompt.txt")
    newer(repo, old.replace("As we say", "As nobody says"), 2)
    code, said = again(repo, run.id, node="frontmatter")
    assert (code, said["nodes"][0]["rebuilt"]) == (0, True)


def test_old_inputs_go_through_another_version_and_are_compared(
    past: tuple[Repo, NightReport], again: Replayed, capsys: pytest.CaptureFixture[str]
) -> None:
    repo, report = past
    # The scripted engine chooses by a hash of the prompt: another prompt chooses otherwise.
    newer(repo, packaged("prompts", "doc.frontmatter.j2").replace("{% block user %}", "{% block user %}\nNow:"), 2)
    code, said = again(repo, None, all_of=report.night.id, agent="doc.frontmatter@2")
    assert code == 1
    assert said["agent_from"] == repo.head().commit
    assert {one["node"] for one in said["nodes"]} == {"frontmatter"}
    changed = next(one for one in said["nodes"] if not one["same"])
    assert (changed["before"]["agent"], changed["after"]["agent"]) == ("doc.frontmatter@1", "doc.frontmatter@2")
    assert changed["before"]["state"] == changed["after"]["state"] == "passed"
    assert any("ends otherwise" in why for why in changed["why"])
    assert "--- recorded/docs/" in changed["patch"]
    assert changed["after"]["model_calls"] > 0
    code, said = again(repo, None, all_of=report.night.id, agent="doc.frontmatter@1")
    assert (code, said["same"]) == (0, True), "the version before is found in the history"
    assert said["agent_from"] == report.night.base
    assert rehearsal.replay(
        repo,
        places(os.environ),
        changed["run"],
        node=None,
        agent="doc.frontmatter",
        all_of=None,
        quiet=True,
        as_json=False,
    )
    text = capsys.readouterr().out
    assert "doc.frontmatter@2" in text
    assert "different; look: git pantheon run" in text


def test_a_newer_version_that_fails_is_counted_as_failed(past: tuple[Repo, NightReport], again: Replayed) -> None:
    repo, report = past
    run = of(report)
    agent = packaged("agents", "doc.frontmatter.toml").replace("version = 1", "version = 2")
    write_files(repo.root, {AGENT: agent.replace("max_steps = 8", "max_steps = 1")})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "fewer steps", cwd=repo.root)
    code, said = again(repo, run.id, agent="doc.frontmatter@2")
    (node,) = said["nodes"]
    assert (code, node["before"]["state"], node["after"]["state"]) == (1, "passed", "failed")
    assert "max_steps" in node["after"]["reason"]


# --- parts, attempts, own commands -----------------------------------------------------------------------------------

PARTS = {
    ".pantheon/flows/parts.toml": """[flow]
name = "parts"
rules = "parts"
[[flow.node]]
id = "validate"
agent = "plan.parts"
[[flow.node]]
id = "describe"
agent = "line.parts"
inputs = ["validate"]
each = "validate.choose"
retries = 2
success = "len(describe.open) == 0"
tolerated = true
[[flow.node]]
id = "checks"
checks = ["rules"]
inputs = ["describe"]
[[flow.node]]
id = "review"
flow = "peers"
inputs = ["checks"]
[[flow.node]]
id = "merge"
gate = true
inputs = ["review"]
""",
    ".pantheon/rules/parts.toml": """kind = "pattern"
files = ["docs/*.md"]
[[rule]]
name = "area"
missing = 'Area: \\w+'
insert = "Area: {value}"
at = "end"
values = ["storage", "radio", "harbour"]
[[rule]]
name = "owner"
missing = 'Owner: \\w+'
insert = "Owner: {value}"
at = "heading"
values = ["ann", "bob", "eve"]
""",
    ".pantheon/agents/plan.parts.toml": """[agent]
name = "plan.parts"
version = 1
summary = "Repair what is certain"
runtime = {engine = "none", origin = "local"}
prefetch = ["repair_lines"]
""",
    ".pantheon/agents/line.parts.toml": """[agent]
name = "line.parts"
version = 1
summary = "Choose a line"
runtime = {engine = "vllm", origin = "local"}
prefetch = ["read_file"]
tools = ["set_line"]
prompt = "line.parts.j2"
""",
    ".pantheon/prompts/line.parts.j2": """{% block system %}
Choose a line. {{ cards|join(" ") }}
{% endblock %}
{% block user %}
{{ target }}, {{ focus }}, try {{ attempt }}: {{ failure }} {{ fetched.read_file }}
{{ goals[0] }}
{% endblock %}
""",
    "docs/tasks/parts.md": """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c12"
title: "Parts"
slug: "parts"
status: "ready"
pantheon:
  flow: parts
  scope: ["docs/*.md"]
---
""",
    "docs/boats.md": "# Boats\n\nA boat has a berth.\n",
}


def test_parts_of_a_fan_out_and_their_attempts_are_replayed(
    make_repo: MakeRepo, tmp_path: Path, again: Replayed
) -> None:
    repo = Repo.discover(make_repo(PARTS))
    desk.trust(repo, places(os.environ), yes=True, as_json=False)
    (run,) = night(repo, tmp_path).runs
    assert {"describe", "describe.1", "describe.2"} <= set(run.nodes), run
    names = git("ls-tree", "-r", "--name-only", run.run_commit or "", cwd=repo.root)
    assert "describe.1/attempt-1.llm_prompt.txt" in names
    nodes = {one["node"]: one for one in again(repo, run.id)[1]["nodes"]}
    assert "describe" not in nodes
    assert nodes["checks"]["rebuilt"], "the worktree after all parts is the one that was checked"
    for name in ("describe.1", "describe.2"):
        assert {answer["state"] for answer in nodes[name]["answers"]} == {"same"}
        assert nodes[name]["rebuilt"] or "it ran beside other parts" in nodes[name]["why"][-1]
    assert [one["node"] for one in again(repo, run.id, node="describe")[1]["nodes"]] == ["describe.1", "describe.2"]
    one, two = again(repo, run.id, agent="line.parts")[1]["nodes"]
    assert (one["node"], two["node"]) == ("describe.1", "describe.2")
    assert (
        one["after"]["calls"] == [call for call in one["before"]["calls"] if "set_line" in call or "host" in call][:3]
    )


def test_commands_of_a_base_that_nobody_trusts_are_not_run(
    make_repo: MakeRepo, tmp_path: Path, again: Replayed
) -> None:
    checks = '[check.frontmatter]\nrun = ["true"]\n'
    repo = build(make_repo, **{".pantheon/checks.toml": checks})
    run = of(night(repo, tmp_path))
    assert again(repo, run.id, node="frontmatter")[0] == 0, "no command of the repository runs for that"
    with pytest.raises(TrustError, match="nobody trusted it"):
        again(repo, run.id, node="checks")
    desk.trust(repo, places(os.environ), yes=True, as_json=False)
    assert again(repo, run.id, node="checks")[0] == 0
    git("rm", "-q", ".pantheon/checks.toml", cwd=repo.root)
    git("commit", "-q", "-m", "packaged checks", cwd=repo.root)
    assert again(repo, run.id, node="checks")[0] == 0, "what was trusted stays so"


# --- dry run ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_needs_no_model_and_leaves_nothing(make_repo: MakeRepo) -> None:
    repo = build(make_repo)
    assert not places(os.environ).models.exists()
    before = snapshot(repo.root)
    text = typed(repo.root, "night", "--dry-run")
    assert "a scripted engine stood in for the model; nothing was written" in text
    assert "a PR would open: Tidy the notes, 4 items" in text
    said = json.loads(typed(repo.root, "night", "--dry-run", "--quiet", "--json"))
    assert {item["target"]: item["outcome"] for item in said["items"]} == dict.fromkeys(NOTES, "accepted")
    assert said["items"][0]["nodes"]["validate"] == "passed"
    assert snapshot(repo.root) == before
    cache = Path(os.environ["XDG_CACHE_HOME"], "git-pantheon")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_dry_run_finds_nothing_to_do(make_repo: MakeRepo) -> None:
    root = make_repo({"README.md": "# Hello\n"})
    assert "nothing to do" in typed(root, "night", "--dry-run")
    assert json.loads(typed(root, "night", "--dry-run", "--json"))["ended"] == "nothing to do"


def test_a_dry_run_goes_by_the_trust_in_the_repository_itself(make_repo: MakeRepo) -> None:
    repo = build(make_repo, **{".pantheon/checks.toml": '[check.frontmatter]\nrun = ["false"]\n'})
    assert "nobody trusted it yet" in typed(repo.root, "night", "--dry-run", code=1)
    typed(repo.root, "trust", "--yes")
    said = json.loads(typed(repo.root, "night", "--dry-run", "--json", "--quiet"))
    assert {(item["outcome"], item["node"]) for item in said["items"]} == {("failed", "checks")}


def test_status_tells_a_night_that_runs_from_one_that_was_interrupted(make_repo: MakeRepo) -> None:
    repo = build(make_repo)
    name = freeze(repo).night.id
    assert f"night {name} was interrupted; git pantheon night --now resumes it" in typed(repo.root, "status")
    with nights.alone(repo):
        assert f"night {name} is under way, by process {os.getpid()}" in typed(repo.root, "status")
        assert json.loads(typed(repo.root, "status", "--json"))["night_process"] == os.getpid()
    assert f"night {name} was interrupted" in typed(repo.root, "status")


def test_a_dry_run_passes_over_a_night_that_was_interrupted(make_repo: MakeRepo) -> None:
    repo = build(make_repo)
    frozen = freeze(repo)
    before = snapshot(repo.root)
    text = typed(repo.root, "night", "--dry-run")
    assert f"night {frozen.night.id} was interrupted" in text
    assert "a PR would open" in text
    assert snapshot(repo.root) == before
    assert nights.unfinished(repo) == frozen.night.id


def test_a_dry_run_after_nights_and_prs_sees_them(past: tuple[Repo, NightReport]) -> None:
    repo, _ = past
    before = snapshot(repo.root)
    said = typed(repo.root, "night", "--dry-run")
    assert "nothing to do" in said, "everything waits for a review"
    assert snapshot(repo.root) == before


# --- the real model --------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_the_real_model_gets_the_same_bytes_again(make_repo: MakeRepo, tmp_path: Path, live: Bench) -> None:
    repo = build(make_repo)
    frozen = freeze(repo)
    when = {"signer": desk.signer(repo), "now": lambda: WHEN, "progress": runner.Progress()}
    report = live.run(runner.run(repo, frozen, live.engine, CLOSED, work=tmp_path / "work", **when))  # type: ignore[arg-type]
    accepted = [recorded.Stored.load(repo, run) for run in report.runs if run.outcome is Outcome.ACCEPTED]
    with shadow_of(repo, tmp_path / "cache") as shadow:
        stage = open_stage(
            shadow,
            frozen.night.base,
            live.engine,
            tmp_path / "stage",
            limits=config.UserLimits(),
            protected=(),
            allowed=lambda commit: None,
        )
        found = [live.run(replay_node(stage, run, node)) for run in accepted for node in run.agents()]
    assert all(one.rebuilt for one in found), [one.why for one in found]
    answers = [answer for one in found for answer in one.answers]
    assert answers
    assert all(answer.intact for answer in answers)
    same = [answer for answer in answers if answer.state == "same"]
    print(f"{len(same)} of {len(answers)} answers of {len(accepted)} runs are the same")
    assert len(same) * 10 >= len(answers) * 7  # batches change the order of sums, and some words weigh nearly alike
