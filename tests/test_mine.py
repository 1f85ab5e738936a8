"""Rows to learn from, mined out of whole nights: what is taught, what never is, and that every byte is the model's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import MakeRepo, git, write_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_families import commit, edited, named, prose
from test_night import CLOSED, TASK, WHEN
from test_session import typed

from pantheon import artifacts, desk, nights, prs, review, school
from pantheon import night as runner
from pantheon.config import Config, TrainingSettings
from pantheon.engine import ScriptedEngine
from pantheon.errors import EngineError, InputError, RepositoryError
from pantheon.families import DEV, place
from pantheon.git import Repo
from pantheon.lessons import Dataset, Row
from pantheon.loop import schema_of
from pantheon.models import ChatTemplate
from pantheon.places import places
from pantheon.prompt import read_record, record
from pantheon.records import NightReport, Offer, Outcome, PullRequest, Run, ToolCall
from pantheon.survey import read_config, survey
from pantheon.training import mine as mining
from pantheon.training.forms import SERVED, chat_form
from pantheon.training.helped import chosen, helped, question, words
from pantheon.training.mine import Mined, mine

AGENT = "doc.frontmatter"
SETTINGS = TrainingSettings()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{{ bos_token }}{% for m in messages %}[{{ m.role | upper }}] {{ m.content }}\n{% endfor %}[ASSISTANT] "
STANDING = TASK.replace("pantheon:\n", "pantheon:\n  standing: true\n")
SUBJECTS = ("oven", "harbour", "garden", "library", "orchard", "bakery", "workshop", "museum", "railway", "quarry")


def shelve(model: Path, template: str = CHATML) -> Path:
    """A directory that looks like a model's: nothing here loads its weights."""
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "<s>"}))
    added = [{"content": "<|im_start|>", "special": True}, {"content": "<|im_end|>", "special": True}]
    (model / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return model


class Speaking(ScriptedEngine):
    """The scripted engine in the place of a model, whose chat form it speaks."""

    name = "vllm"

    def __init__(self, model: Path, script: Callable[[str, dict[str, Any]], str | None] | tuple[()] = ()) -> None:
        super().__init__(script)
        self.model = model.name
        self._template = ChatTemplate(model)

    def render(self, system: str, user: str) -> str:
        return self._template.render(system, user)

    def _answer(self, prompt: str, schema: dict[str, Any]) -> str:
        return super()._answer(prompt.replace("<|im_start|>user", "<user>").replace("[USER]", "<user>"), schema)


def note(seed: int) -> str:
    """A note without front matter, whose text is its own."""
    subject = SUBJECTS[seed % len(SUBJECTS)]
    return f"# Care of the {subject} {seed}\n\nThe {subject} {seed} is cleaned every Friday. {prose(seed, 60)}"


def sides(dev: bool, count: int, start: int = 0) -> list[str]:
    """Names that are not held out, to train on or to stop by."""
    return [name for name in named(False, count=4000, start=start) if (place(name, DEV) < SETTINGS.dev) is dev][:count]


TRAIN, STOP, HELD = sides(False, 5), sides(True, 1)[0], named(True)[0]
TARGETS = (*TRAIN, STOP, HELD)


@dataclass
class Ground:
    """One repository with its model, its nights, and what a person may say."""

    repo: Repo
    shelf: Path
    work: Path
    clock: int = 0
    reports: list[NightReport] = field(default_factory=list)

    @property
    def model(self) -> Path:
        return self.shelf / "tiny"

    def night(self, engine: ScriptedEngine | None = None) -> NightReport:
        """A night over what HEAD has."""
        speaking = engine or Speaking(self.model)
        found = survey(self.repo, self.repo.head().commit)
        frozen = nights.freeze(
            self.repo,
            found,
            desk.make_plan(self.repo, found),
            budget_s=300,
            engine=speaking.name,
            model=speaking.model,
            window=8,
            now=WHEN,
            signer=desk.signer(self.repo),
            sowing=False,
        )
        progress = runner.Progress()
        ran = runner.run(
            self.repo,
            frozen,
            speaking,
            CLOSED,
            work=self.work / str(len(self.reports)),
            signer=desk.signer(self.repo),
            now=lambda: WHEN,
            progress=progress,
        )
        self.reports.append(asyncio.run(ran))
        return self.reports[-1]

    @property
    def pull(self) -> PullRequest:
        return prs.load_all(self.repo)[-1]

    def say(self, verb: str, *items: str) -> None:
        signed: dict[str, Any] = {"when": WHEN, "signer": desk.signer(self.repo)}
        match verb:
            case "accept":
                review.accept(self.repo, self.pull, drop=items, strategy="merge", **signed)
            case "reject":
                review.reject(self.repo, self.pull, items=items, reason="no", **signed)
            case "drop":
                review.drop(self.repo, self.pull, items=items, **signed)
            case "never":
                review.never(self.repo, self.pull, items=items, **signed)
            case "retry":
                review.retry(self.repo, self.pull, items=items, note="shorter", **signed)
            case "undo":
                review.undo(self.repo, self.pull, **signed)

    def config(self) -> Config:
        head = self.repo.head().commit
        return read_config(self.repo, head, self.repo.entries(head))

    def mine(self, **more: Any) -> Mined:
        found = self.config()
        given: dict[str, Any] = {"teacher": False, "commit": self.repo.head().commit, "when": WHEN, **more}
        return mine(self.repo, found, found.agents[AGENT], self.model, **given)

    def run_of(self, target: str) -> Run:
        (found,) = [run for run in artifacts.list_runs(self.repo) if run.item.target == target]
        return found


@pytest.fixture(scope="module")
def kept() -> list[NightReport]:
    """The report of the night that most tests look back at, once it ran."""
    return []


@pytest.fixture
def ground(
    kept: list[NightReport], make_repo: MakeRepo, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Ground:
    """A repository of the test's own after a night over seven notes, in one open PR; the night itself runs once."""
    shelf = tmp_path / "shelf"
    shelve(shelf / "tiny")
    kept_at = tmp_path_factory.getbasetemp() / "mine-past"
    if not kept:
        root = make_repo({name: note(number) for number, name in enumerate(TARGETS)} | {"docs/tasks/tidy.md": STANDING})
        first = Ground(Repo.discover(root), shelf, tmp_path / "work")
        kept.append(first.night())
        assert {run.outcome for run in kept[0].runs} == {Outcome.ACCEPTED}, [run.reason for run in kept[0].runs]
        shutil.copytree(root, kept_at)
    shutil.rmtree(tmp_path / "repo", ignore_errors=True)
    shutil.copytree(kept_at, tmp_path / "repo", symlinks=True)
    return Ground(Repo.discover(tmp_path / "repo"), shelf, tmp_path / "work", reports=list(kept))


def rows(mined: Mined, name: str = "train") -> list[Row]:
    return [Row.model_validate_json(line) for line in (mined.directory / f"{name}.jsonl").read_text().splitlines()]


def targets(mined: Mined, name: str = "train") -> set[str]:
    return {row.source.target for row in rows(mined, name)}


def tamper(ground: Ground, run: Run, files: Mapping[str, bytes], *, signed: bool = True) -> None:
    """Put other artifacts in place of a run's own: as the bot itself could, or as somebody without its key."""
    repo = ground.repo
    at = repo.ref(artifacts.run_ref(run.id)) or ""
    tree = repo.write_tree(repo.tree_of(at), {path: (0o100644, repo.write_blob(data)) for path, data in files.items()})
    info = repo.commit_info(at)
    new = repo.commit(tree, info.parents, info.message, WHEN, desk.signer(repo) if signed else None)
    repo.move_ref(artifacts.run_ref(run.id), new, at, "tampered")


def read(ground: Ground, run: Run, name: str) -> bytes:
    return artifacts.read_artifact(ground.repo, run.id, "frontmatter", name)


# --- what is taught --------------------------------------------------------------------------------------------------


def test_rows_are_byte_for_byte_what_the_model_saw_and_said(ground: Ground) -> None:
    ground.say("accept")
    mined = ground.mine()
    render = ChatTemplate(ground.model).render
    assert mined.dataset.rows == len(rows(mined)) >= 2 * len(TRAIN)
    for row in (*rows(mined), *rows(mined, "dev")):
        run = artifacts.load_run(ground.repo, row.source.run)
        prompts = read_record(read(ground, run, "llm_prompt.txt"))
        calls = [ToolCall.model_validate_json(line) for line in read(ground, run, "tool_calls.jsonl").splitlines()]
        (call,) = [one for one in calls if one.step == row.source.step and one.by == "model"]
        system, user, assistant = row.messages
        assert [one.role for one in row.messages] == ["system", "user", "assistant"]
        prompt = render(system.content, user.content)
        assert prompt in prompts
        assert hashlib.sha256(prompt.encode()).hexdigest() == row.prompt_sha256 == call.prompt_sha256
        assert assistant.content == call.answer
        assert (row.kind, row.weight, row.source.decision, row.source.model) == ("call", 1.0, "accepted", "tiny")
        assert (row.source.item, row.source.target) == (run.item.id, run.item.target)
        (offered,) = json.loads(row.tools)
        value = json.loads(assistant.content)["value"]
        assert value in offered["function"]["parameters"]["properties"]["value"]["enum"]
        assert offered["function"]["name"] == "set_field"


def test_what_waits_in_an_open_pr_weighs_less_or_nothing(ground: Ground) -> None:
    assert {(row.weight, row.source.decision) for row in rows(ground.mine())} == {(0.5, "unjudged")}
    write_files(ground.repo.root, {".pantheon/pantheon.toml": "[training]\nunjudged = 0.0\n"})
    commit(ground.repo.root, {})
    with pytest.raises(RepositoryError, match=r"accept a PR.*training\.unjudged is 0"):
        ground.mine()


def test_targets_lie_on_one_side_each_and_none_that_is_held_out(ground: Ground) -> None:
    ground.say("accept")
    mined = ground.mine()
    assert targets(mined) == set(TRAIN)
    assert targets(mined, "dev") == {STOP}
    assert set(mined.dataset.families) == {*TRAIN, STOP}
    assert mined.dataset.left_out[mining.HELD] >= 2
    everything = "".join(path.read_text() for path in mined.directory.iterdir())
    assert HELD not in everything
    assert f"oven {TARGETS.index(HELD)}" not in everything


def test_the_dataset_is_found_by_its_digest_and_mined_twice_it_is_the_same(ground: Ground) -> None:
    ground.say("accept")
    one = ground.mine()
    before = {path.name: path.read_bytes() for path in one.directory.iterdir()}
    two = ground.mine()
    assert two == one
    assert {path.name: path.read_bytes() for path in two.directory.iterdir()} == before
    assert set(before) == {"train.jsonl", "dev.jsonl", "negatives.jsonl", "dataset.json", "DATASHEET.md"}
    assert Dataset.model_validate_json(before["dataset.json"]) == one.dataset
    assert one.directory.relative_to(ground.repo.common_dir) == Path("pantheon/datasets", AGENT, one.dataset.digest)
    (one.directory / "train.jsonl").write_text("damaged\n")
    assert ground.mine() == one
    assert {path.name: path.read_bytes() for path in one.directory.iterdir()} == before
    assert [path.name for path in one.directory.parent.iterdir()] == [one.dataset.digest]
    assert git("status", "--porcelain", cwd=ground.repo.root) == ""


def test_datasets_loads_the_files_as_trl_reads_them(ground: Ground, tmp_path: Path) -> None:
    ground.say("drop", TRAIN[0])
    mined = ground.mine()
    files = {name: str(mined.directory / f"{name}.jsonl") for name in ("train", "dev", "negatives")}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "hf"))
    for name in files:
        own = rows(mined, name)
        assert len(loaded[name]) == len(own) > 0
        for row, found in zip(own, loaded[name], strict=True):
            assert found["messages"] == [one.model_dump() for one in row.messages]
            assert json.loads(found["tools"]) == json.loads(row.tools)
            assert found["weight"] == row.weight
    shapes = {
        json.dumps(sorted(json.loads(row.tools)[0]["function"]["parameters"]["properties"]["value"])) for row in own
    }
    assert shapes


def test_the_datasheet_tells_a_person_what_is_in_it_and_what_is_not(ground: Ground) -> None:
    ground.say("drop", TRAIN[0])
    mined = ground.mine(levels={ground.run_of(TRAIN[1]).item.id: 2})
    text = (mined.directory / "DATASHEET.md").read_text()
    data = mined.dataset
    assert f"`train.jsonl`: {data.rows} rows to train on, of {len(TRAIN) - 1} targets." in text
    assert f"- {data.left_out[mining.HELD]}: {mining.HELD}." in text
    assert "| dropped |" in text
    assert "| docops |" in text
    assert "| 2026-03-01-1 |" in text
    assert mined.dataset.digest in text
    assert {row.level for row in rows(mined)} == {0, 2}
    assert [row.level for row in rows(mined)] == sorted(row.level for row in rows(mined)), "easy ones first"


# --- what people said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["drop", "reject", "retry", "never"])
def test_what_a_person_refused_is_a_negative_and_never_taught(ground: Ground, verb: str) -> None:
    ground.say(verb, TRAIN[0])
    ground.say("accept")
    mined = ground.mine()
    assert targets(mined) == set(TRAIN[1:])
    assert targets(mined, "negatives") == {TRAIN[0]}
    said = {"drop": "dropped", "reject": "rejected", "retry": "retry", "never": "never"}[verb]
    assert {(row.weight, row.source.decision) for row in rows(mined, "negatives")} == {(0.0, said)}
    assert TRAIN[0] not in mined.dataset.families


def test_what_was_taken_back_counts_no_more(ground: Ground) -> None:
    ground.say("reject", TRAIN[0])
    ground.say("undo")
    assert targets(ground.mine()) == set(TRAIN)
    ground.say("accept")
    assert {row.source.decision for row in rows(ground.mine())} == {"accepted"}
    ground.say("undo")
    assert {row.source.decision for row in rows(ground.mine())} == {"unjudged"}
    ground.say("reject")
    with pytest.raises(RepositoryError, match="nothing to learn from yet"):
        ground.mine()


def test_a_decision_that_was_killed_half_way_teaches_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object) -> PullRequest:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(prs, "update", killed)
        ground.say("reject", TRAIN[0])
    mined = ground.mine()
    assert targets(mined) == set(TRAIN[1:])
    assert targets(mined, "negatives") == set()
    assert mined.dataset.left_out[mining.UNCLEAR] >= 2


def test_what_the_gate_refused_is_neither_taught_nor_a_negative(ground: Ground) -> None:
    def wrong(prompt: str, schema: dict[str, Any]) -> str | None:
        properties = schema["properties"]
        if "Heading: Care of the quarry 99" in prompt and properties["tool"] == {"const": "match_title"}:
            other = next(one for one in properties["title"]["enum"] if one != "Care of the quarry 99")
            return json.dumps({"tool": "match_title", "title": other})
        return None

    ground.say("accept")
    name = sides(False, 6)[-1]
    commit(ground.repo.root, {name: note(99)})
    report = ground.night(Speaking(ground.model, wrong))
    assert [run.outcome for run in report.runs] == [Outcome.FAILED], [run.reason for run in report.runs]
    mined = ground.mine()
    assert name not in targets(mined) | targets(mined, "negatives") | targets(mined, "dev")
    assert mined.dataset.left_out[mining.FAILED] >= 2


def test_the_same_words_that_a_person_refused_are_not_taught_from_another_run(ground: Ground) -> None:
    ground.say("retry", TRAIN[0])
    ground.say("accept")
    again = ground.night()
    assert [run.item.target for run in again.runs] == [TRAIN[0]]
    ground.say("accept")
    mined = ground.mine()
    negatives = {tuple(one.content for one in row.messages) for row in rows(mined, "negatives")}
    taught = {tuple(one.content for one in row.messages) for row in rows(mined)}
    assert negatives
    assert not negatives & taught
    second = [row for row in rows(mined) if row.source.target == TRAIN[0]]
    assert all("Mind this: shorter" in row.messages[1].content for row in second), "its prompts are others"


# --- smuggling -------------------------------------------------------------------------------------------------------


def test_a_held_out_note_under_another_name_is_not_mined(ground: Ground) -> None:
    ground.say("accept")
    root = ground.repo.root
    spare = sides(False, 9)[5:]
    git("mv", HELD, spare[0], cwd=root)
    (root / spare[0]).write_text(note(TARGETS.index(HELD)))  # to be done again
    commit(root, {})
    commit(root, {spare[1]: edited(note(TARGETS.index(HELD)), 0.3), spare[2]: note(60)})
    report = ground.night()
    assert {run.item.target for run in report.runs} == set(spare[:3])
    ground.say("accept")
    mined = ground.mine()
    assert spare[0] not in targets(mined), "renamed"
    assert spare[1] not in targets(mined), "copied with edits"
    assert spare[2] in targets(mined)
    assert mined.dataset.left_out[mining.LIKE] >= 2


def test_a_note_that_the_bot_itself_renamed_stays_held_out(make_repo: MakeRepo, tmp_path: Path) -> None:
    """Its first name was held out; the next night finds it under the name that the bot gave it."""
    good = sides(False, 3)
    held = next(
        f"docs/--title {n}.md" for n in range(999) if place(f"docs/--title {n}.md", b"pantheon held out 1") < 0.25
    )
    shelve(tmp_path / "shelf" / "tiny")
    files = {name: note(number) for number, name in enumerate(good)} | {held: note(7)}
    root = make_repo(files | {"docs/tasks/tidy.md": STANDING})
    ground = Ground(Repo.discover(root), tmp_path / "shelf", tmp_path / "work")
    ground.night()
    ground.say("accept")
    after = [path for path in survey(ground.repo, ground.repo.head().commit).notes if "museum" in path]
    assert len(after) == 1
    assert place(after[0], b"pantheon held out 1") >= 0.25, "by itself its new name is not held out"
    commit(root, {after[0]: prose(70) and f"# Another thing {note(80)[2:]}"})
    assert [run.item.target for run in ground.night().runs] == after
    ground.say("accept")
    assert targets(ground.mine()) == set(good)


def test_a_forged_target_does_not_take_a_note_out_of_what_is_held_out(ground: Ground) -> None:
    ground.say("accept")
    run = ground.run_of(HELD)
    forged = run.model_copy(update={"item": run.item.model_copy(update={"target": "docs/free.md"}), "run_commit": None})
    tamper(ground, run, {artifacts.RUN_FILE: forged.to_json().encode() + b"\n"}, signed=False)
    mined = ground.mine()
    assert "docs/free.md" not in targets(mined) | targets(mined, "dev")


# --- bytes, secrets, signatures --------------------------------------------------------------------------------------


def test_a_prompt_that_was_changed_is_left_out_whoever_changed_it(ground: Ground) -> None:
    ground.say("accept")
    run = ground.run_of(TRAIN[0])
    prompts = read_record(read(ground, run, "llm_prompt.txt"))
    forged = record([text.replace("Friday", "Monday") for text in prompts])
    before = ground.mine()
    tamper(ground, run, {"frontmatter/llm_prompt.txt": forged})
    mined = ground.mine()
    assert targets(mined) == set(TRAIN[1:])
    assert mined.dataset.left_out[mining.CHANGED] >= 2
    assert "Monday" not in (mined.directory / "train.jsonl").read_text()
    assert mined.dataset.digest != before.dataset.digest
    tamper(ground, run, {"frontmatter/llm_prompt.txt": forged[:-9]})
    assert ground.mine().dataset.left_out[mining.DAMAGED] >= 2


def test_an_answer_that_was_changed_is_left_out(ground: Ground) -> None:
    ground.say("accept")
    run = ground.run_of(TRAIN[0])
    calls = read(ground, run, "tool_calls.jsonl")
    assert b"cleaned every Friday" in calls
    tamper(ground, run, {"frontmatter/tool_calls.jsonl": calls.replace(b'"answer":"{', b'"answer":"{\\"x\\":1,')})
    mined = ground.mine()
    assert targets(mined) == set(TRAIN[1:])
    assert mined.dataset.left_out[mining.DAMAGED] >= 2


def test_a_run_or_a_pr_that_no_trusted_key_signed_teaches_nothing(ground: Ground) -> None:
    ground.say("accept")
    tamper(ground, ground.run_of(TRAIN[0]), {}, signed=False)
    mined = ground.mine()
    assert targets(mined) == set(TRAIN[1:])
    assert mined.dataset.left_out[mining.UNSIGNED] >= 2
    repo, name = ground.repo, f"{prs.PRS}1/meta"
    at = repo.ref(name) or ""
    forged = repo.commit(repo.tree_of(at), [at], "accept: PR 1\n", WHEN)
    repo.move_ref(name, forged, at, "forged")
    with pytest.raises(RepositoryError, match=mining.UNCLEAR):
        ground.mine()


def test_secrets_never_get_in(ground: Ground) -> None:
    key = "AKIA" + "Q3EGRKXFZ7HB2NTC"
    ground.say("accept")
    spare = sides(False, 7)[5:]
    commit(ground.repo.root, {spare[0]: f"# Keys of the mill 31\n\nThe mill key is {key} today.\n", spare[1]: note(31)})
    ground.night()
    ground.say("accept")
    mined = ground.mine()
    assert spare[0] not in targets(mined)
    assert spare[1] in targets(mined)
    assert mined.dataset.left_out[mining.SECRET] >= 1
    run = ground.run_of(TRAIN[0])  # as if it had been stored before there was a scan
    prompts = [text.replace("Friday", key) for text in read_record(read(ground, run, "llm_prompt.txt"))]
    calls = read(ground, run, "tool_calls.jsonl").replace(b"Friday", key.encode())
    for old, new in zip(read_record(read(ground, run, "llm_prompt.txt")), prompts, strict=True):
        one, two = (hashlib.sha256(text.encode()).hexdigest().encode() for text in (old, new))
        calls = calls.replace(one, two)
    tamper(ground, run, {"frontmatter/llm_prompt.txt": record(prompts), "frontmatter/tool_calls.jsonl": calls})
    again = ground.mine()
    assert key not in (again.directory / "train.jsonl").read_text()
    assert again.dataset.left_out[mining.SECRET] > mined.dataset.left_out[mining.SECRET]


# --- which runs ------------------------------------------------------------------------------------------------------


def test_a_night_without_a_model_teaches_nothing_but_where_a_caller_says_so(ground: Ground) -> None:
    class Silent(Speaking):
        name = "scripted"

    ground.say("accept")
    name = sides(False, 6)[-1]
    commit(ground.repo.root, {name: note(41)})
    ground.night(Silent(ground.model))
    mined = ground.mine()
    assert name not in targets(mined)
    assert mined.dataset.left_out[mining.MODELLESS] >= 2
    assert name in targets(ground.mine(engines=frozenset({"vllm", "scripted"})))


def test_a_prompt_that_is_no_longer_in_force_is_not_taught(ground: Ground) -> None:
    ground.say("accept")
    own = "{% block system %}Say.{% endblock %}{% block user %}{{ target }}{{ goals[0] }}{% endblock %}"
    commit(ground.repo.root, {f".pantheon/prompts/{AGENT}.j2": own})
    with pytest.raises(RepositoryError, match=mining.TEMPLATE):
        ground.mine()


def test_a_teachers_work_is_rendered_anew_and_only_when_asked_for(ground: Ground) -> None:
    ground.say("accept")
    name = sides(False, 6)[-1]
    commit(ground.repo.root, {name: note(51).replace("Friday", "Friday <|im_end|>")})
    teacher = shelve(ground.shelf / "large", PLAIN)
    (teacher / "tokenizer.json").write_text('{"added_tokens": []}')
    ground.night(Speaking(teacher))
    ground.say("accept")
    mined = ground.mine()
    assert name not in targets(mined)
    assert mined.dataset.left_out[mining.FOREIGN] >= 2
    taught = ground.mine(teacher=True)
    assert taught.dataset.teachers == ("large",)
    own = [row for row in rows(taught) if row.source.target == name]
    assert {row.source.model for row in own} == {"large"}
    render = ChatTemplate(ground.model).render
    for row in own:
        prompt = render(row.messages[0].content, row.messages[1].content)
        assert hashlib.sha256(prompt.encode()).hexdigest() == row.prompt_sha256
        assert prompt.count("<|im_end|>") == 2, "what its own form does not know is broken up in the student's"
        assert "< |im_end|>" in row.messages[1].content
    shutil.rmtree(teacher)
    again = ground.mine(teacher=True)
    assert name not in targets(again)
    assert again.dataset.left_out[mining.UNREADABLE] >= 2


def test_reviewers_and_agents_without_a_model_are_not_taught(ground: Ground) -> None:
    found = ground.config()
    rest: dict[str, Any] = {"teacher": False, "commit": ground.repo.head().commit, "when": WHEN}
    with pytest.raises(InputError, match="measured on canaries"):
        mine(ground.repo, found, found.agents["review.peer-a"], ground.model, **rest)
    with pytest.raises(InputError, match="asks no model"):
        mine(ground.repo, found, found.agents["plan.validate"], ground.model, **rest)
    with pytest.raises(RepositoryError, match="no night had work for it yet") as error:
        mine(ground.repo, found, found.agents["code.docstring"], ground.model, **rest)
    assert "git pantheon night" in error.value.hint
    with pytest.raises(EngineError, match="no chat template"):
        (ground.model / "tokenizer_config.json").write_text("{}")
        ground.mine()


def twin(ground: Ground, run: Run) -> Run:
    """The very same run once more, in a PR of its own that nobody decided on."""
    repo, pull = ground.repo, ground.pull
    copy = run.model_copy(update={"id": "ab" * 16, "night": "2026-03-02-1", "run_commit": None})
    at = repo.ref(artifacts.run_ref(run.id)) or ""
    blob = repo.write_blob(copy.to_json().encode() + b"\n")
    tree = repo.write_tree(repo.tree_of(at), {artifacts.RUN_FILE: (0o100644, blob)})
    made = repo.commit(tree, repo.commit_info(at).parents, "run\n", WHEN, desk.signer(repo))
    repo.move_ref(artifacts.run_ref(copy.id), made, None, "again")
    prs.open_pull(
        repo,
        task=pull.task,
        slug="again",
        title="Again",
        night=copy.night,
        onto=pull.onto,
        base=pull.base,
        tip=pull.tip,
        items=[next(item for item in pull.items if item.run == run.id).model_copy(update={"run": copy.id})],
        when=WHEN,
        signer=desk.signer(repo),
    )
    return copy


def test_a_row_is_there_once_with_the_better_word(ground: Ground) -> None:
    ground.say("accept")
    before = ground.mine()
    run = ground.run_of(TRAIN[0])
    twin(ground, run)
    mined = ground.mine()
    assert mined.dataset.left_out[mining.TWICE] >= 2
    assert mined.dataset.digest == before.dataset.digest
    assert {row.source.run for row in rows(mined) if row.source.target == run.item.target} == {run.id}
    assert {row.weight for row in rows(mined)} == {1.0}


def test_what_a_person_refused_is_not_taught_from_a_run_that_was_accepted(ground: Ground) -> None:
    ground.say("accept")
    taught = [row.messages for row in rows(ground.mine()) if row.source.target == TRAIN[0]]
    other = twin(ground, ground.run_of(TRAIN[0]))
    ground.say("reject")
    mined = ground.mine()
    assert {row.source.run for row in rows(mined, "negatives")} == {other.id}
    assert [row.messages for row in rows(mined, "negatives")] == taught
    assert targets(mined) == set(TRAIN[1:])
    assert mined.dataset.left_out[mining.NEGATED] == len(taught) >= 2


# --- what helped -----------------------------------------------------------------------------------------------------


def called(tool: str, step: int = 1, result: dict[str, Any] | None = None, **args: str) -> ToolCall:
    return ToolCall(step=step, by="model", tool=tool, args=args, result=result if result is not None else {})


def test_an_edit_helped_when_its_value_is_in_the_change() -> None:
    change = words("title: Care of the oven\ntags:\n- oven\n- bread rolls\n")
    first = called("set_field", field="title", value="Care of the oven")
    assert helped(first, {"value": "Care of the oven"}, [], change) == "yes"
    gone = called("set_field", field="title", value="Ovens")
    later = called("set_field", 2, field="title", value="Care of the oven")
    assert helped(gone, {"value": "Ovens"}, [later], change) == "no", "it was overwritten"
    part = called("set_field", field="title", value="the oven")
    assert helped(part, {"value": "the oven"}, [later], change) == "no", "only what came later holds it"
    tag = called("set_field", field="tags", value="bread rolls")
    assert helped(tag, {"value": "bread rolls"}, [called("set_field", field="tags", value="oven")], change) == "yes"
    assert helped(gone, {"value": "Ovens"}, [], change) == "unknown"
    failed = gone.model_copy(update={"error": "cannot set"})
    assert helped(failed, {"value": "Ovens"}, [], change) == "no"


def test_a_look_helped_when_its_result_was_used() -> None:
    change = words("See docs/backups.md for the schedule\n")
    found = {"path": "a.md", "lines": ["nightly schedule: restic at two", "x"]}
    look = called("search", text="restic", result=found)
    use = called("edit", 2, old="restic at two", new="restic at three")
    assert helped(look, {"text": "restic"}, [use], change) == "yes"
    assert helped(look, {"text": "restic"}, [], change) == "unknown", "that it was asked for is no use"
    assert helped(look, {"text": "restic"}, [use.model_copy(update={"error": "no"})], change) == "unknown"
    view = called("view", window="2", result={"text": "for the schedule"})
    assert helped(view, {"window": "2"}, [], change) == "yes"
    assert helped(called("finalize"), {}, [], "") == "yes"


def test_what_nothing_tells_is_asked_of_the_model(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    ground.say("accept")
    before = ground.mine()
    monkeypatch.setattr(mining, "helped", lambda *args: "unknown")
    with pytest.raises(RepositoryError, match=mining.UNKNOWN):
        ground.mine()
    asked: list[tuple[str, str]] = []

    def losses(pairs: Sequence[tuple[str, str]]) -> list[float]:
        asked.extend(pairs)
        return [1.0 if at % 2 == 0 and at < len(pairs) - 2 else 2.0 for at in range(len(pairs))]

    mined = ground.mine(losses=losses)
    assert 0 < mined.dataset.rows < before.dataset.rows
    assert mined.dataset.left_out[mining.USELESS] == 1, "the loss of the last did not fall"
    assert mined.dataset.left_out[mining.UNKNOWN] == len(TARGETS) - 1, "behind the last call of a node comes nothing"
    for (prompt, completion), (without, same) in zip(asked[::2], asked[1::2], strict=True):
        assert completion == same
        gone = [line for line in prompt.splitlines() if line not in without.splitlines()]
        assert len(gone) == 1
        assert gone[0].startswith("Done: set_field")


def test_a_result_that_no_later_prompt_shows_is_no_question() -> None:
    look = called("search", text="restic", result={"lines": ["a b c"]})
    assert question(look, []) is None
    assert question(look, [("nothing of it", "{}")]) is None
    shown = question(look, [('Before\nDone: search text="restic" -> done\nGoal\n', "{}")])
    assert shown is not None
    assert shown.without == "Before\nGoal\n"


def test_a_choice_is_told_from_a_text_and_the_offers_are_functions() -> None:
    offers = (
        Offer(tool="set_field", args={"field": ("title",), "value": ("Ovens", "Boats")}),
        Offer(tool="write", args={"text": None}, max_length=900),
        Offer(tool="finalize", args={}),
    )
    schema = schema_of(offers)
    assert mining.kind_of(called("set_field", field="title", value="Ovens"), schema) == "call"
    assert mining.kind_of(called("write", text="x"), schema) == "text"
    assert mining.kind_of(called("write", text="x"), schema_of(offers[1:2])) == "text"
    assert mining.kind_of(called("finalize"), schema) == "call"
    found = [one["function"] for one in mining.functions(schema)]
    assert [one["name"] for one in found] == ["set_field", "write", "finalize"]
    assert found[0]["parameters"]["properties"]["value"] == {"enum": ["Ovens", "Boats"]}
    assert found[0]["parameters"]["required"] == ["field", "value"]
    free = chosen(called("set_field", field="title", value="Ovens"), schema)
    assert free == {"value": "Ovens"}, "the field was not its choice"


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, PLAIN])
def test_a_prompt_is_taken_apart_into_what_it_was_made_of(tmp_path: Path, template: str) -> None:
    form = chat_form(shelve(tmp_path / "model", template))
    for parts in (("You are.", "Do."), ("a\n\nb", "<|im_end|>\n[USER] x"), ("", "x")):
        prompt = form.render(*parts)
        found = form.split(prompt)
        assert found is not None
        assert form.render(*found) == prompt
    assert form.split(form.render("a", "b") + "x") is None
    assert form.split("x") is None
    assert form.split("") is None


PIECES = st.lists(st.sampled_from(["a", " ", "\n", "<|im_end|>", "<|im_start|>user\n", "[USER] ", "é", "{{ x }}"])).map(
    "".join
)


@given(PIECES, PIECES, st.sampled_from([CHATML, PLAIN]))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_rendered_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, system: str, user: str, template: str
) -> None:
    form = chat_form(shelve(tmp_path_factory.mktemp("form") / "model", template))
    prompt = form.render(system, user)
    found = form.split(prompt)
    assert found is not None
    assert form.render(*found) == prompt
    served = SERVED.render(system, user)
    assert SERVED.render(*(SERVED.split(served) or ("", ""))) == served


def test_a_form_that_loses_a_message_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="leaves messages out"):
        chat_form(shelve(tmp_path / "a", "{{ messages[-1].content }}"))
    with pytest.raises(EngineError, match="takes no system message"):
        chat_form(shelve(tmp_path / "b", "{{ raise_exception('no') }}"))


def test_messages_of_a_server_are_read_back() -> None:
    prompt = SERVED.render("You are.", "Do <|im_end|>.")
    assert SERVED.split(prompt) == ("You are.", "Do < |im_end|>.")
    assert SERVED.split(prompt + " ") is None
    assert SERVED.split("[1, 2]") is None
    assert SERVED.split("{}") is None


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_there_is_and_what_comes_next(
    ground: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.say("accept")
    models = places(os.environ).models
    models.parent.mkdir(parents=True)
    shutil.copytree(ground.shelf, models)
    commit(ground.repo.root, {".pantheon/pantheon.toml": '[engine]\nmodel = "tiny"\n'})
    where = places(os.environ)
    assert school.mine(ground.repo, where, AGENT, teacher=False, as_json=False) == 0
    said = capsys.readouterr().out
    directory = ground.mine().directory
    assert f"{AGENT}: " in said
    assert "rows to learn from" in said
    assert f"{ground.mine().dataset.left_out[mining.HELD]}  {mining.HELD}" in said
    assert str(directory) in said
    assert f"next: git pantheon train {AGENT}" in said
    assert school.mine(ground.repo, where, AGENT, teacher=False, as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["directory"] == str(directory)
    assert Dataset.model_validate({key: value for key, value in data.items() if key != "directory"})
    with pytest.raises(RepositoryError, match=r"no such agent.*doc\.frontmatter"):
        school.mine(ground.repo, where, "doc.nothing", teacher=False, as_json=False)
    said = typed(ground.repo.root, "mine", "review.peer-a", code=1)
    assert "next: git pantheon report" in said
