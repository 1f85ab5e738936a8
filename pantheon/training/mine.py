"""Mines rows to learn from: from the artifacts of runs that people accepted, byte for byte what the model saw and said.

Ring 3: walks the runs, holds each against its signature, the last human word, the held-out targets and the filter of
helped.py, and writes a dataset by its digest below the common git dir. It trains nothing and asks no model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pantheon import artifacts, nights, prs, redact
from pantheon.config import Config
from pantheon.errors import EngineError, InputError, RepositoryError
from pantheon.families import Likeness
from pantheon.git import Repo
from pantheon.ledger import Ledger
from pantheon.lessons import Dataset, Message, Row, Source
from pantheon.models import find_model
from pantheon.reader import Unreadable
from pantheon.recorded import Stored, Take
from pantheon.records import Agent, HumanDecision, NodeState, PullItem, PullRequest, PullState, Run, ToolCall
from pantheon.training import lineage
from pantheon.training.datasheet import datasheet, write
from pantheon.training.forms import SERVED, Form, chat_form
from pantheon.training.helped import Question, chosen, helped, question, shapes, written
from pantheon.training.lineage import Lineage
from pantheon.verify import load_trust

MODELS = frozenset({"vllm", "openai"})  # the engines whose answers are a model's
SERVER = "openai"  # the one whose prompts are messages, in whatever form its server gives them
HIDDEN = f"{redact.MARKER} redacted "  # what stands in an artifact where a secret stood
Word = Literal["accepted", "unjudged", "rejected", "dropped", "retry", "never"]
GOOD = ("accepted", "unjudged")
Losses = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
Step = Callable[[int, int], None]

# Why a call is not among the rows, as people read it.
HELD = "its target is held out"
LIKE = "its text is nearly that of a held-out target"
FAILED = "the gate did not pass it"
UNOFFERED = "no PR offers it"
UNCLEAR = "its decision and the PR's record differ"
UNSIGNED = "no key that is trusted here signed it"
DAMAGED = "its artifacts cannot be read"
MODELLESS = "no model made it"
FOREIGN = "another model made it"
UNREADABLE = "its prompt cannot be taken apart"
TEMPLATE = "another prompt template was in force"
TRIED = "the try did not succeed"
REFUSED = "the loop refused it"
CHANGED = "its prompt is not the one that was answered"
SECRET = "a secret is in it"
USELESS = "it did not help"
UNKNOWN = "nothing tells that it helped"
TWICE = "it is there already"
NEGATED = "a person refused the very same"
UNWEIGHTED = "nobody accepted it yet, and training.unjudged is 0"


@dataclass(frozen=True)
class Mined:
    """What was mined, and where it lies: train.jsonl, dev.jsonl, negatives.jsonl, dataset.json and DATASHEET.md."""

    dataset: Dataset
    directory: Path


@dataclass(frozen=True)
class _Prompt:
    """A prompt of the model that learns, with the messages that it was rendered from."""

    text: str
    system: str
    user: str


@dataclass(frozen=True)
class _Call:
    """One call of the agent in a run, with what was said of the run."""

    row: Row
    verdict: Literal["yes", "no", "unknown"] = "yes"
    question: Question | None = None


@dataclass
class _Pit:
    """A mining under way."""

    repo: Repo
    agent: Agent
    model_dir: Path
    template: str
    teacher: bool
    engines: frozenset[str]
    levels: Mapping[str, int]
    lineage: Lineage
    likeness: Likeness
    ledger: Ledger
    words: Mapping[str, Word | None]
    unjudged: float
    forms: dict[str, Form] = field(default_factory=dict)
    alike: dict[str, bool] = field(default_factory=dict)  # by blob
    secret: dict[str, bool] = field(default_factory=dict)  # by text
    left_out: Counter[str] = field(default_factory=Counter)


def mine(
    repo: Repo,
    found: Config,
    agent: Agent,
    model_dir: Path,
    *,
    teacher: bool,
    commit: str,
    when: datetime,
    levels: Mapping[str, int] | None = None,
    losses: Losses | None = None,
    engines: frozenset[str] = MODELS,
    step: Step = lambda done, total: None,
) -> Mined:
    """Mine what an agent can learn, for the model in `model_dir`. `teacher`: also from what other models did; their
    prompts are rendered anew. `commit`: where targets are held against the history. `levels`: item -> its level.
    `losses`: the mean loss of each completion behind its prompt, for calls of which nothing else tells whether they
    helped. `engines`: whose answers count. Raises InputError for an agent that cannot learn, RepositoryError when there
    is nothing to learn yet."""
    refuse(agent)
    every = _in_order(artifacts.list_runs(repo))
    runs = [run for run in every if run.item.canary is None and calls_of(run, agent)]
    settings = found.settings.training
    past = lineage.read(repo, commit, settings, (run.result for run in every if run.result))
    ledger = Ledger(repo.common_dir, load_trust(repo.common_dir), lambda text: None)
    try:
        pit = _Pit(
            repo=repo,
            agent=agent,
            model_dir=model_dir,
            template=nights.template_digests(found).get(agent.label, ""),
            teacher=teacher,
            engines=engines,
            levels=levels or {},
            lineage=past,
            likeness=past.likeness({lineage.suffix(run.item.target) for run in runs}),
            ledger=ledger,
            words=last_words(repo, ledger),
            unjudged=settings.unjudged,
        )
        dug: list[_Call] = []
        for number, run in enumerate(runs, 1):
            dug += _dig(pit, run)
            step(number, len(runs))
    finally:
        ledger.store.close()
    good, negatives = _sifted(pit, dug, losses)
    train, dev = _split(pit, good, settings.dev)
    if not train:
        raise _nothing(agent, pit.left_out, len(dev))
    files = {"train.jsonl": _lines(train), "dev.jsonl": _lines(dev), "negatives.jsonl": _lines(negatives)}
    dataset = _described(pit, good, digest_of(files), len(train), len(dev), len(negatives), settings.held_out)
    flows = {run.id: run.item.flow for run in runs}
    sheet = datasheet(dataset, agent, train, dev, negatives, flows, when=when, commit=commit)
    return Mined(dataset, write(place(repo, dataset), files, dataset, sheet))


def _described(
    pit: _Pit, good: Sequence[Row], digest: str, rows: int, dev: int, negatives: int, held_out: float
) -> Dataset:
    return Dataset(
        agent=pit.agent.name,
        digest=digest,
        rows=rows,
        dev=dev,
        negatives=negatives,
        runs=len({row.source.run for row in good}),
        families=tuple(sorted({row.source.family for row in good})),
        held_out=held_out,
        template_sha256=pit.template,
        model=pit.model_dir.name,
        teachers=tuple(sorted({row.source.model for row in good} - {pit.model_dir.name})),
        left_out={why: count for why, count in sorted(pit.left_out.items()) if count},
    )


def _split(pit: _Pit, good: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows to stop by), of different targets."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in good:
        sides[pit.lineage.families.dev(row.source.target, share)].append(row)
    return sides


def refuse(agent: Agent) -> None:
    """Raise InputError for an agent that there is nothing to teach."""
    what = "cannot mine"
    if agent.output == "review":
        why = "it reviews: reviewers are measured on canaries; taught their own yeses they would only agree more"
        raise InputError(what, agent.name, why, hint="git pantheon report")
    if agent.runtime.engine == "none" or agent.prompt is None:
        raise InputError(what, agent.name, "its tools decide everything: it asks no model", hint="git pantheon agents")


def _nothing(agent: Agent, left_out: Counter[str], dev: int) -> RepositoryError:
    hint = "git pantheon pr"
    if dev:
        why = f"all {dev} rows are of targets that tell when to stop (training.dev); accept more of its work"
    elif left_out.total():
        reasons = "; ".join(f"{why}: {count}" for why, count in left_out.most_common(4))
        why = f"accept a PR with its work first. Of its calls were left out: {reasons}"
    else:
        why, hint = "no night had work for it yet: run one, then accept a PR with its work", "git pantheon night --now"
    return RepositoryError("nothing to learn from yet", agent.name, why, hint)


def digest_of(files: Mapping[str, bytes]) -> str:
    """The digest of a dataset: sha256 over the names and the bytes of its files of rows, by name."""
    whole = hashlib.sha256()
    for name, data in sorted(files.items()):
        whole.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\0".encode())
    return whole.hexdigest()


def place(repo: Repo, dataset: Dataset) -> Path:
    """Where a dataset lies."""
    return repo.common_dir / "pantheon" / "datasets" / dataset.agent / dataset.digest


def _lines(rows: Iterable[Row]) -> bytes:
    return "".join(row.to_json() + "\n" for row in rows).encode("utf-8")


def _in_order(runs: Iterable[Run]) -> list[Run]:
    def order(run: Run) -> tuple[str, int, str]:
        day, _, number = run.night.rpartition("-")
        return day, int(number) if number.isdigit() else 0, run.id

    return sorted(runs, key=order)


def calls_of(run: Run, agent: Agent) -> int:
    """How many answers a model gave for the agent in a run."""
    own = [node for node, label in run.node_agents.items() if label.rpartition("@")[0] == agent.name]
    return sum(run.metrics[node].model_calls for node in own if node in run.metrics)


# --- what people said ------------------------------------------------------------------------------------------------


def last_words(repo: Repo, ledger: Ledger) -> dict[str, Word | None]:
    """The last human word on each run that a PR offered; None where the record of the PR and the notes do not tell the
    same, or where nobody who is trusted signed the record."""
    said: dict[str, Word | None] = {}
    for pull in prs.load_all(repo):
        meta = prs.meta_of(repo, pull.id) or ""
        sound = signed(ledger, meta, f"PR {pull.id}")
        for item in pull.items:
            word = _word(pull, item)
            if item.run and word is not None:
                clear = sound and (word not in GOOD or not _refused_in_notes(repo, item))
                said[item.run] = word if clear else None
    return said


def _word(pull: PullRequest, item: PullItem) -> Word | None:
    if item.verdict == "later":
        return None  # nothing was said of it but when
    if item.verdict:
        return item.verdict
    if item.dropped or pull.state is PullState.REJECTED:
        return "rejected"
    if pull.state is PullState.ACCEPTED:
        return "accepted"
    return "unjudged" if pull.state is PullState.OPEN else None


def _refused_in_notes(repo: Repo, item: PullItem) -> bool:
    """Whether the last decision in the notes is a refusal: it was killed half-way, or came from elsewhere."""
    decisions = []
    for line in (repo.read_note(prs.DECISIONS, item.commit) or b"").splitlines():
        try:
            decisions.append(HumanDecision.model_validate_json(line))
        except ValueError:
            return True
    own = [one for one in decisions if one.run == item.run]
    last = max(own, key=lambda one: (one.pr, one.step, one.when), default=None)
    return last is not None and last.verdict not in ("accepted", "undone")


def signed(ledger: Ledger, commit: str, where: str) -> bool:
    """Whether the bot made a commit, and a key that is trusted here signed it. To be asked once of a commit."""
    before = ledger.commits
    with suppress(Unreadable):
        ledger.signed(commit, where)
    return ledger.commits > before


# --- digging ---------------------------------------------------------------------------------------------------------


def _dig(pit: _Pit, run: Run) -> Iterator[_Call]:
    """The calls of one run that may be learned from, or that a person refused."""
    word = pit.words.get(run.id)
    why = _against(pit, run, word)
    if why or word is None:
        pit.left_out[why or UNOFFERED] += calls_of(run, pit.agent)
        return
    stored = Stored.load(pit.repo, run)
    change = written(pit.repo.diff(_parent(pit.repo, run), run.result or "")) if word in GOOD else ""
    for node, label in stored.agents().items():
        if label.rpartition("@")[0] != pit.agent.name:
            continue
        asked = run.metrics[node].model_calls if node in run.metrics else 0
        try:
            *earlier, take = stored.takes(node)
        except (RepositoryError, ValueError):
            pit.left_out[DAMAGED] += asked
            continue
        form, why = _form(pit, take)
        if run.nodes.get(node) != NodeState.PASSED:
            why = why or TRIED
        pit.left_out[TRIED] += sum(len(one.asks) for one in earlier)
        if form is None or why:
            pit.left_out[why] += len(take.asks)
        else:
            yield from _calls(pit, run, take, form, word, change)


def _parent(repo: Repo, run: Run) -> str:
    return repo.commit_info(run.result or "").parents[0]


def _against(pit: _Pit, run: Run, word: Word | None) -> str:
    """Why nothing of a run is looked at; "" when it is."""
    target = run.item.target
    if pit.lineage.held_out(target):
        return HELD
    if _is_alike(pit, run):
        return LIKE
    if not run.passed or not run.result:
        return FAILED
    if run.id not in pit.words:
        return UNOFFERED
    if word is None:
        return UNCLEAR
    if not signed(pit.ledger, run.run_commit or "", f"run {run.id}"):
        return UNSIGNED
    return UNWEIGHTED if word == "unjudged" and not pit.unjudged else ""


def _is_alike(pit: _Pit, run: Run) -> bool:
    """Whether the target reads like one that is held out."""
    blob = run.item.blob
    if blob not in pit.alike:
        pit.alike[blob] = any(map(pit.likeness.alike, pit.lineage.texts([blob])))
    return pit.alike[blob]


def _form(pit: _Pit, take: Take) -> tuple[Form | None, str]:
    """How a take's prompts look, or why it is left out."""
    own = take.engine != SERVER and take.model == pit.model_dir.name
    if take.engine not in pit.engines:
        return None, MODELLESS
    if not own and not pit.teacher:
        return None, FOREIGN
    if take.template != pit.template:
        return None, TEMPLATE
    try:
        return (SERVED if take.engine == SERVER else _form_of(pit, take.model)), ""
    except EngineError:
        if own:
            raise
        return None, UNREADABLE


def _form_of(pit: _Pit, model: str) -> Form:
    """The chat form of the model that learns, or of one beside it on the shelf. Raises EngineError."""
    if model not in pit.forms:
        here = model == pit.model_dir.name
        pit.forms[model] = chat_form(pit.model_dir if here else find_model(model, pit.model_dir.parent))
    return pit.forms[model]


def _calls(pit: _Pit, run: Run, take: Take, form: Form, word: Word, change: str) -> Iterator[_Call]:
    """The rows of one attempt at a node, each with whether it helped."""
    asks = take.asks
    hidden = any(HIDDEN in text for text in (*take.prompts, *(call.to_json() for call in take.calls)))
    learned = [_learned(pit, take, form, text) for text in take.prompts]
    for number, (call, schema) in enumerate(zip(asks, take.schemas, strict=False)):
        why = SECRET if hidden else _fault(call, take.prompts[number])
        prompt = learned[number]
        if why or prompt is None:
            pit.left_out[why or UNREADABLE] += 1
            continue
        row = _row(pit, run, take, call, prompt, schema, word)
        if _secret(pit, row):
            pit.left_out[SECRET] += 1
        elif word in GOOD:
            later = take.calls[take.calls.index(call) + 1 :]
            verdict = helped(call, chosen(call, schema), later, change)
            behind = zip(learned[number + 1 :], asks[number + 1 :], strict=False)
            shown = [(one.text, ask.answer) for one, ask in behind if one is not None and ask.answer is not None]
            yield _Call(row, verdict, question(call, shown) if verdict == "unknown" else None)
        else:
            yield _Call(row)


def _learned(pit: _Pit, take: Take, form: Form, text: str) -> _Prompt | None:
    """A recorded prompt, byte for byte; of another model's work, the same messages in the form of the model that
    learns. None when it cannot be taken apart."""
    parts = form.split(text)
    if parts is not None and (take.model != pit.model_dir.name or take.engine == SERVER):
        own = _form_of(pit, pit.model_dir.name)
        text = own.render(*parts)
        parts = own.split(text)
    return None if parts is None else _Prompt(text, *parts)


def _fault(call: ToolCall, text: str) -> str:
    """Why a call is no example; "" when it is one."""
    if call.error is not None or call.answer is None or call.by != "model":
        return REFUSED
    try:
        said = json.loads(call.answer)
    except (ValueError, RecursionError):
        return DAMAGED
    if said != {"tool": call.tool, **call.args}:
        return DAMAGED
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return CHANGED if digest != call.prompt_sha256 else ""


def _secret(pit: _Pit, row: Row) -> bool:
    for message in row.messages:
        if message.content not in pit.secret:
            pit.secret[message.content] = bool(redact.find(message.content))
    return any(pit.secret[message.content] for message in row.messages)


def _row(
    pit: _Pit, run: Run, take: Take, call: ToolCall, prompt: _Prompt, schema: Mapping[str, Any], word: Word
) -> Row:
    parts = (prompt.system, prompt.user, call.answer or "")
    roles: tuple[Literal["system", "user", "assistant"], ...] = ("system", "user", "assistant")
    weight = 1.0 if word == "accepted" else pit.unjudged if word == "unjudged" else 0.0
    return Row(
        kind=kind_of(call, schema),
        messages=tuple(Message(role=role, content=text) for role, text in zip(roles, parts, strict=True)),
        tools=json.dumps(functions(schema), ensure_ascii=False, sort_keys=True, separators=(",", ":")),
        prompt_sha256=hashlib.sha256(prompt.text.encode()).hexdigest(),
        weight=weight,
        level=pit.levels.get(run.item.id, 0),
        source=Source(
            run=run.id,
            night=run.night,
            item=run.item.id,
            target=run.item.target,
            family=pit.lineage.families.family(run.item.target),
            node=take.node,
            step=call.step,
            agent=take.agent,
            model=take.model,
            decision=word,
        ),
    )


def kind_of(call: ToolCall, schema: Mapping[str, Any]) -> Literal["call", "text"]:
    """Whether the model chose among values that its schema offered, or wrote a text of its own."""
    values = [shape["properties"] for shape in shapes(schema) if shape["properties"]["tool"] == {"const": call.tool}]
    return "text" if any("type" in one.get(name, {}) for one in values for name in call.args) else "call"


def functions(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a schema let the model call, as functions of the chat interface."""
    found: list[dict[str, Any]] = []
    for shape in shapes(schema):
        properties = dict(shape.get("properties", {}))
        name = properties.pop("tool", {}).get("const", "")
        required = [one for one in shape.get("required", []) if one != "tool"]
        parameters = {"type": "object", "properties": properties, "required": required}
        found.append({"type": "function", "function": {"name": name, "description": "", "parameters": parameters}})
    return found


# --- sifting ---------------------------------------------------------------------------------------------------------


def _sifted(pit: _Pit, dug: Sequence[_Call], losses: Losses | None) -> tuple[list[Row], list[Row]]:
    """(rows to learn from, negatives): each once, none that a person refused elsewhere, none that did not help."""
    negatives: dict[tuple[str, ...], Row] = {}
    for call in dug:
        if call.row.source.decision not in GOOD and negatives.setdefault(_key(call.row), call.row) is not call.row:
            pit.left_out[TWICE] += 1
    good: dict[tuple[str, ...], Row] = {}
    taught = [call for call in dug if call.row.source.decision in GOOD]
    for call, keeps in zip(taught, _kept(taught, losses), strict=True):
        row, key = call.row, _key(call.row)
        if key in negatives:
            pit.left_out[NEGATED] += 1
        elif not keeps:
            pit.left_out[USELESS if call.verdict == "no" or (call.question and losses) else UNKNOWN] += 1
        elif key in good:
            pit.left_out[TWICE] += 1
            if row.weight > good[key].weight:
                good[key] = row
        else:
            good[key] = row
    return sorted(good.values(), key=_place), sorted(negatives.values(), key=_place)


def _place(row: Row) -> tuple[int, str, str, str, int]:
    source = row.source
    return row.level, source.night, source.run, source.node, source.step


def _key(row: Row) -> tuple[str, ...]:
    return tuple(message.content for message in row.messages)


def _kept(taught: Sequence[_Call], losses: Losses | None) -> list[bool]:
    """Whether each call helped; what only the model can tell is asked in one go."""
    asked = [call.question for call in taught if call.question is not None] if losses else []
    pairs = [(text, one.completion) for one in asked for text in (one.with_result, one.without)]
    found = list(losses(pairs)) if losses and pairs else []
    lower = iter([found[at] < found[at + 1] for at in range(0, len(found), 2)])
    return [
        call.verdict == "yes"
        or (call.verdict == "unknown" and bool(losses) and call.question is not None and next(lower))
        for call in taught
    ]
