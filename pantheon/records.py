"""The records that cross module borders: frozen, unknown keys refused, one JSON form each.

Ring 0: no decisions and no I/O. Object ids are 40 hex digits, times are timezone-aware, paths are repository paths
with `/` (bytes that are not UTF-8 are kept through surrogateescape), durations are seconds, sizes are bytes.
Every stored record carries `schema_version`, so that old ones still load.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, field_serializer

from pantheon.forms import SCHEMA_VERSION as SCHEMA_VERSION
from pantheon.forms import Digest as Digest
from pantheon.forms import Glob as Glob
from pantheon.forms import Record as Record
from pantheon.forms import newer as newer
from pantheon.forms import pretty as pretty
from pantheon.forms import seconds as seconds
from pantheon.pulls import Collected as Collected
from pantheon.pulls import HumanDecision as HumanDecision
from pantheon.pulls import Look as Look
from pantheon.pulls import PullItem as PullItem
from pantheon.pulls import PullRequest as PullRequest
from pantheon.pulls import PullState as PullState
from pantheon.pulls import Pushed as Pushed
from pantheon.pulls import Retired as Retired
from pantheon.pulls import Trouble as Trouble

# --- tasks and items -------------------------------------------------------------------------------------------------


class Acceptance(Record):
    """One acceptance criterion: a named check from `.pantheon/checks.toml`."""

    run: str


class TaskSpec(Record):
    """The strict `pantheon` block of a task file."""

    flow: str | None = None
    scope: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    max_diff_lines: int = Field(default=200, ge=1, le=100_000)
    standing: bool = False
    confirm: tuple[str, ...] = ()  # exact paths that may change although a change there needs a person's word
    acceptance: tuple[Acceptance, ...] = ()


class Task(Record):
    """A committed task file. `spec` is None when the file has no `pantheon` block."""

    uuid: str
    title: str
    slug: str
    status: str
    priority: str = "P3"
    labels: tuple[str, ...] = ()
    path: str
    body: str = ""
    spec: TaskSpec | None = None


class Repair(StrEnum):
    """How sure the repair of a finding is."""

    CERTAIN = "certain"  # one right answer, computed
    CHOOSE = "choose"  # candidates are computed, a model chooses
    REPORT = "report"  # a person must look


class Finding(Record):
    """One rule that a file breaks. `line` counts from 1, 0 when the whole file is meant."""

    rule: str
    message: str
    field: str = ""
    line: int = 0
    repair: Repair = Repair.REPORT


class Canary(Record):
    """What is known of a seeded item: whether its change is right, and what is wrong with it. Nobody who judges the
    change sees this. `tree`: the change as a whole tree, on the night's seeded base."""

    good: bool
    kind: str  # "restored" of a right one; wrong-title, broken-link, lost-paragraph, ...
    tree: str


class Item(Record):
    """One micro-op: one flow over one target; the unit of queueing, gating and learning.

    `id` is stable across nights: a digest of the task's uuid, the flow and the target. `agents`: node -> agent as the
    router chose, `name@version`; `why` says so where there was a choice.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    task: str  # the task's uuid
    flow: str
    target: str
    blob: str
    findings: tuple[Finding, ...]
    agents: dict[str, str] = Field(default_factory=dict)
    why: tuple[str, ...] = ()
    canary: Canary | None = None
    hint: str = ""  # what a person who wants it tried again said of the last try: one line


# --- configuration as data -------------------------------------------------------------------------------------------


TEACHER = "teacher"  # the model of an agent that the night's teacher answers for


class Runtime(Record):
    """Where an agent thinks. `engine = "none"`: its tools decide everything and no model is asked. `adapter`: the
    digest of a LoRA adapter on the model, which is verified before it is loaded."""

    engine: Literal["vllm", "scripted", "none"] = "vllm"
    model: str = "default"
    origin: str
    adapter: Digest | None = None


class Tuning(Record):
    """How an agent's adapter is trained. `rate`: the highest learning rate, with a cosine after a short warm-up.
    `epochs`: at most; it stops early when the loss on rows that it does not train on no longer falls. Rank and alpha:
    Hu et al., LoRA (2021); the quantised base: Dettmers et al., QLoRA (2023)."""

    rank: int = Field(default=8, ge=1, le=64)
    alpha: int = Field(default=16, ge=1, le=256)
    rate: float = Field(default=2e-4, gt=0, le=0.1)
    epochs: int = Field(default=4, ge=1, le=100)
    seed: int = Field(default=1, ge=0, le=2**31)


class AgentLimits(Record):
    max_steps: int = Field(default=8, ge=1, le=64)
    max_failures: int = Field(default=2, ge=0, le=16)
    deadline_s: float = Field(default=120.0, gt=0, le=3600)
    max_tokens: int = Field(default=128, ge=1, le=4096)  # of one answer


class FlowMatch(Record):
    """Which tasks and files a flow, or an agent among several, is for. Empty: all."""

    paths: tuple[Glob, ...] = ()
    labels: tuple[str, ...] = ()


class Agent(Record):
    """A specialist. `prefetch` names tools the host calls before the first prompt; `output` the shape of `finalize`;
    `match` what it is good for, where a flow names several. `finish`: it ends when no tool offers a call, or may end
    whenever it likes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)
    version: int = Field(ge=1)
    summary: str
    runtime: Runtime
    tools: tuple[str, ...] = ()
    prefetch: tuple[str, ...] = ()
    output: Literal["edit", "review"] = "edit"
    finish: Literal["forced", "offered"] = "forced"
    match: FlowMatch = FlowMatch()
    prompt: str | None = None
    limits: AgentLimits = AgentLimits()
    training: Tuning = Tuning()

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class FlowNode(Record):
    """A node of a flow: exactly one of `agent`, `checks`, `flow` and `gate`.

    `agent`: a name, `name@3` or `name >= 3`; of several the router picks one per item. `flow`: a sub-flow whose nodes
    take this one's place. `when`, `each` and `success` are expressions over outputs: whether the node runs at all, the
    list whose elements it runs over in parallel, and whether it has to run again (at most `retries` times).
    `tolerated`: its failure does not end the flow. `timeout_s` covers all of it.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    agent: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ()
    checks: tuple[str, ...] = ()
    flow: str | None = None
    gate: bool = False
    inputs: tuple[str, ...] = ()
    when: str | None = None
    each: str | None = None
    success: str | None = None
    retries: int = Field(default=0, ge=0, le=8)
    tolerated: bool = False
    timeout_s: float = Field(default=1800.0, gt=0, le=86_400)


class Flow(Record):
    """A DAG of nodes over one target. `rules` names the file below `rules/` that says what breaks a target; `subject`
    is the subject of an accepted commit, with `{target}`. Without a gate it is a part of other flows."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)
    version: int = Field(default=1, ge=1)
    summary: str = ""
    rules: str = "frontmatter"
    subject: str = "{target}"
    match: FlowMatch = FlowMatch()
    nodes: tuple[FlowNode, ...] = Field(validation_alias=AliasChoices("node", "nodes"), min_length=1)

    @property
    def whole(self) -> bool:
        """Whether it can run by itself: it ends in a gate."""
        return any(node.gate for node in self.nodes)


def _need(value: str) -> str:
    parts = value.split("/")
    if any(not part.strip(".") or part.casefold() == ".git" or not part.isprintable() for part in parts):
        raise ValueError("name a directory inside the working tree, such as node_modules")
    return value


class Check(Record):
    """A named check: an argument vector; checks.py fills in what stands in braces. `needs`: directories of the user's
    working tree that git ignores, such as installed packages; what there is of them is shown to it, read-only."""

    name: str
    run: tuple[str, ...]
    needs: tuple[Annotated[str, AfterValidator(_need)], ...] = ()
    timeout_s: float = Field(default=60.0, gt=0, le=3600)


# --- the tool loop ---------------------------------------------------------------------------------------------------


class Offer(Record):
    """A call the model may make next. Each argument is a list of allowed values, or None for a short free text.
    `again`: the same call may be made more than once, since what it reads may have changed."""

    tool: str
    args: dict[str, tuple[str, ...] | None]
    max_length: int = 160  # characters, of a free text argument
    again: bool = False

    def single(self) -> dict[str, str] | None:
        """The only call this offer allows, or None when there is something to choose."""
        values = [choice for choice in self.args.values() if choice is not None and len(choice) == 1]
        return {k: v[0] for k, v in self.args.items() if v} if len(values) == len(self.args) else None


class ToolCall(Record):
    """One step of a tool loop: who asked (`host` before the first prompt or on a forced move, else `model`)."""

    step: int
    by: Literal["host", "model"]
    tool: str
    args: dict[str, Any]
    result: dict[str, Any] | None = None
    error: str | None = None
    prompt_sha256: str | None = None
    answer: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    engine_s: float = 0.0
    confidence: float | None = None
    cause: str = ""  # of an error: schema, length, not-offered or repeat (the answer), tool or timeout (the call)


class Completion(Record):
    """One answer of an engine. Token counts as the server reports them."""

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int
    seconds: float  # from the question to the last token, the queue included
    queue_s: float = 0.0  # until a slot of the engine was free
    prefill_s: float = 0.0  # from then until the first token; 0 where the server does not tell
    engine_s: float = 0.0  # the engine's time, shared equally among the requests that were in flight at each moment
    confidence: float | None = None  # the probability of this text under the schema; None where nobody asked for it


class EngineMetrics(Record):
    """Counters of a model server since it started; the night takes the difference of two readings. Of one reading:
    `running` requests in the engine, `waiting` for a slot."""

    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    engine_steps: float = 0.0
    prefix_cache_queries: float = 0.0  # tokens
    prefix_cache_hits: float = 0.0  # tokens
    running: int = 0
    waiting: int = 0


# --- runs ------------------------------------------------------------------------------------------------------------


class Artifact(Record):
    """One file of a node's artifacts, as listed in a note. `content` only when it is small text."""

    schema_version: int = SCHEMA_VERSION
    run: str
    node: str
    name: str
    size: int
    sha256: str
    oid: str
    content: str | None = None
    redacted: tuple[str, ...] = ()  # the kinds of secrets that were hidden in it, before anything was stored


class NodeMetrics(Record):
    """What a node cost, all its attempts and calls together. Seconds are wall time; where calls overlap their parts add
    up to more than `seconds`."""

    seconds: float = 0.0
    queue_s: float = 0.0  # waiting for a slot of the engine
    prefill_s: float = 0.0  # until the first token
    decode_s: float = 0.0  # from the first token to the last
    tool_s: float = 0.0  # in tools and checks
    engine_s: float = 0.0  # the engine's time shared among the requests in flight: on a GPU, GPU time
    cpu_s: float = 0.0  # processor time of tools and of the children they started
    memory_bytes: int = 0  # the largest child's peak; 0: no child
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    schema_errors: int = 0  # answers that the schema does not allow
    tool_calls: dict[str, int] = Field(default_factory=dict)  # tool -> calls
    tool_errors: dict[str, dict[str, int]] = Field(default_factory=dict)  # tool -> cause -> calls
    attempts: int = 1
    exit: str = ""  # how it ended: a NodeState, or what stopped it (deadline, timeout, memory, ...)


class NodeState(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    TOLERATED = "tolerated"  # failed, and the flow goes on


class NodeResult(Record):
    """What one node did. `output` is the node's typed output as JSON; `files` its artifacts by name, in bytes."""

    node: str
    state: NodeState
    agent: str = ""
    reason: str = ""
    output: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, bytes] = Field(default_factory=dict)
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    metrics: NodeMetrics = NodeMetrics()


class CheckResult(Record):
    """What a check said, and what its process used; where it counts tests, how many the change broke and fixed."""

    name: str
    passed: bool
    detail: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    tests_broken: int = 0
    tests_fixed: int = 0


class Criterion(Record):
    """One acceptance criterion as one reviewer judged it, asked blind. `reason`: what it named, and what was proposed.
    `confidence`: the probability that the model gave its answer, among all answers that it could give."""

    name: str
    verdict: Literal["pass", "fail"]
    reason: str
    confidence: float | None = None


class Verdict(Record):
    """What a reviewer said: pass only when every criterion passes. `agent` is `name@version`; `confidence` is that of
    its least sure criterion."""

    node: str
    agent: str
    verdict: Literal["pass", "fail"]
    reason: str
    criteria: tuple[Criterion, ...] = ()
    confidence: float | None = None


class Decision(Record):
    """The gate's word on one item: accepted only when `reasons` is empty. `held`: paths that a person may confirm, and
    nothing else is against it."""

    accepted: bool
    reasons: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    FAILED = "failed"
    PARKED = "parked"  # sound, but it conflicts with an earlier item of the stack or waits for a person's word
    SEEDED = "seeded"  # a canary: the gate gave its word, and the change goes nowhere


class Run(Record):
    """One item's way through its flow, as stored in `run.json` of its run ref and as a line of the journal."""

    schema_version: int = SCHEMA_VERSION
    id: str
    night: str
    item: Item
    base: str
    outcome: Outcome
    node: str = ""  # the node that failed
    reason: str = ""
    result: str | None = None  # the accepted commit
    run_commit: str | None = None
    nodes: dict[str, str] = Field(default_factory=dict)  # node -> state
    agents: tuple[str, ...] = ()
    node_agents: dict[str, str] = Field(default_factory=dict)  # node -> name@version
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started_s: float = 0.0  # since the night's start
    verdicts: tuple[Verdict, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    metrics: dict[str, NodeMetrics] = Field(default_factory=dict)  # node -> what it cost

    @field_serializer("metrics")
    def _spent(self, metrics: dict[str, NodeMetrics]) -> dict[str, dict[str, Any]]:
        """Without what is nothing: most nodes have a few figures, and a journal has thousands of nodes."""
        return {node: one.model_dump(mode="json", exclude_defaults=True) for node, one in metrics.items()}

    @property
    def passed(self) -> bool:
        """Whether the gate said yes: so of an accepted run, and of a canary that slipped through or was right."""
        return not self.node and self.outcome in (Outcome.ACCEPTED, Outcome.SEEDED)

    @property
    def noted_on(self) -> str:
        """The commit that carries a stored run's notes: its result, or where there is none the run's own."""
        return self.result or self.run_commit or ""


class Bounds(Record):
    """What the gate asks of its reviewers. Kappa below `kappa_alert` is told, below `kappa_halt` no change of the flow
    is offered; nor when of the known-bad changes that reached the reviewers more than `max_false_pass` got past both.
    """

    kappa_alert: float = Field(default=0.6, ge=-1, le=1)
    kappa_halt: float = Field(default=0.4, ge=-1, le=1)
    max_false_pass: float = Field(default=0.2, ge=0, le=1)
    min_ratings: int = Field(default=20, ge=2, le=10_000)  # judged by both, before kappa counts
    min_canaries: int = Field(default=5, ge=1, le=10_000)  # known-bad ones, before a rate counts that may be chance


class Forecast(Record):
    """What was expected of a night before it ran, as ranges (low, high): items run, seconds, accepted items. `nights`:
    how many earlier nights it was made from."""

    items: int
    seconds: tuple[float, float]
    accepted: tuple[float, float]
    nights: int


class Phase(Record):
    """A server that had its turn: how long it took to start, how long it served, what it generated."""

    server: str
    start_s: float
    seconds: float = 0.0
    tokens: int = 0


class Serving(Record):
    """How a night's agents get their answers: from one server without adapters, from one with several, or from servers
    that take turns, with merged adapters or other models; and why, with the figures."""

    mode: Literal["one", "adapters", "phases"] = "one"
    why: str = ""
    in_flight: int = 0  # items, where that is more than the window


class Night(Record):
    """The frozen night: everything that decides what will run, before anything runs. Digests are sha256 in hex."""

    schema_version: int = SCHEMA_VERSION
    id: str
    started_at: datetime
    base: str
    branch: str
    budget_s: float
    window: int  # items in flight at first
    engine: str
    model: str
    agents: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    items: int = 0
    config_sha256: str = ""  # of everything under .pantheon/, with the packaged defaults
    model_sha256: dict[str, str] = Field(
        default_factory=dict
    )  # weight file -> digest; none for an engine without a model
    templates: dict[str, str] = Field(default_factory=dict)  # agent@version -> digest of its prompt template
    adapters: dict[str, str] = Field(default_factory=dict)  # agent@version -> its adapter
    scripted: tuple[str, ...] = ()  # agent@version that answer without a model, beside others that ask one
    serving: Serving = Serving()
    teacher: str = ""  # the larger model that the agents which edit were run with, to learn from
    teacher_sha256: dict[str, str] = Field(default_factory=dict)
    canaries: int = 0  # seeded items, beside `items`
    seeded_base: str | None = None  # the commit they start from: the base with their targets put back
    bounds: Bounds | None = None  # what the gate asks of its reviewers; None in nights from before it did
    forecast: Forecast | None = None
    check_slots: int = 0  # checks that run at once; 0: not told
    widest: int = 0  # items in flight at most, where the engine wants more than `window`; 0: never more


class Share(Record):
    """`hits` of `of`, with the 95% Wilson score interval of the rate; of none nothing is known: 0 to 1."""

    hits: int = 0
    of: int = 0
    low: float = 0.0
    high: float = 1.0

    @property
    def value(self) -> float | None:
        return self.hits / self.of if self.of else None


class Estimate(Record):
    """A number with its 95% interval; None where it cannot be had."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class ReviewerFigures(Record):
    """One reviewer measured on canaries: the share of known-bad changes that it refused (`sensitivity`), of known-good
    ones that it passed (`specificity`); `passed`: of the night's own items."""

    node: str
    agent: str
    sensitivity: Share
    specificity: Share
    passed: Share


class CanaryFigures(Record):
    """The canaries of one kind: how many, and what became of them. They add up: refused by a check or by the gate
    itself, refused by a reviewer, passed, or not judged (the flow broke down before)."""

    kind: str
    good: bool
    seeded: int
    by_checks: int
    by_reviewers: int
    passed: int
    broken: int = 0


class FlowQuality(Record):
    """What the canaries say of one flow's gate. `table`: how often both reviewers passed, only the first, only the
    second, neither; over the criteria that both judged. `precision`: the estimated share of right changes among the
    accepted ones. `state`: `halted`: nothing of the flow is offered; `why` says for what, `opens` what would open it.
    """

    flow: str
    pair: tuple[str, ...] = ()  # the reviewers, agent@version
    reviewers: tuple[ReviewerFigures, ...] = ()
    canaries: tuple[CanaryFigures, ...] = ()
    table: tuple[int, int, int, int] = (0, 0, 0, 0)
    kappa: Estimate = Estimate()
    adjusted: Estimate = Estimate()  # prevalence-adjusted and bias-adjusted kappa
    false_pass: Share = Share()  # known-bad changes that reached the reviewers and got past both
    true_pass: Share = Share()  # known-good ones
    precision: Estimate = Estimate()
    nights: int = 1  # measured over
    state: Literal["open", "alert", "halted", "unmeasured"] = "unmeasured"
    why: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()


class Sample(Record):
    """One look at a running night. `t_s`: since its start; tokens since then."""

    t_s: float
    done: int
    accepted: int
    running: int  # items in flight
    left: int  # not started
    requests: int = 0  # in the engine
    waiting: int = 0  # for a slot of it
    tokens: int = 0  # generated
    window: int = 0  # items that might be in flight; 0: not told


class NightReport(Record):
    """The morning report as data; `report.py` renders it. `runs` are the night's own items, `canaries` the seeded
    ones, which are counted nowhere else."""

    schema_version: int = SCHEMA_VERSION
    night: Night
    finished_at: datetime
    ended: Literal["finished", "budget", "interrupted", "engine"]
    runs: tuple[Run, ...] = Field(repr=False)  # asyncio writes out what its main task gave, to compare it
    left: int  # items that were not started
    prs: tuple[PullRequest, ...] = ()
    notes: tuple[str, ...] = ()  # what a person should know: skipped tasks, hints
    tokens_per_s: float = 0.0
    mean_batch: float = 0.0
    prefix_hit_rate: float = 0.0
    host_cpu_s: float = 0.0  # of the orchestrator and its checks, without the engine
    wall_s: float = 0.0
    canaries: tuple[Run, ...] = ()
    quality: tuple[FlowQuality, ...] = ()
    timeline: tuple[Sample, ...] = ()
    phases: tuple[Phase, ...] = ()
