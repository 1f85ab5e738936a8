"""A whole night as a value, for tests of what shows it: 40 items of two flows, canaries, quality as measured from
them, a timeline, six nights before it, PRs with diffs. Deterministic; every number adds up as a real night's would.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pantheon import growth, quality
from pantheon.growth import Growth, Learned, Point
from pantheon.records import (
    Bounds,
    Canary,
    CheckResult,
    Criterion,
    Estimate,
    Finding,
    Forecast,
    Item,
    Night,
    NightReport,
    NodeMetrics,
    Outcome,
    Phase,
    PullItem,
    PullRequest,
    PullState,
    Repair,
    Run,
    Sample,
    Serving,
    Verdict,
)
from pantheon.report import ItemView, Morning, PullView

START = datetime(2026, 11, 26, 1, 0, tzinfo=UTC)
BASE = "3f1c" * 10
TASKS = {"docops": "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11", "docstrings": "5b9f3f10-0b1e-4a39-9d0e-3f5a4f7b2c22"}
NODES = {
    "docops": {
        "validate": "plan.validate@1",
        "frontmatter": "doc.frontmatter@{v}",
        "rename": "doc.rename@2",
        "checks": "",
        "review-a": "review.peer-a@2",
        "review-b": "review.peer-b@2",
        "merge": "",
    },
    "docstrings": {
        "validate": "plan.docstrings@1",
        "describe": "code.docstring@{v}",
        "checks": "",
        "review-a": "review.change-a@1",
        "review-b": "review.change-b@1",
        "merge": "",
    },
}
CHECKS = {"docops": ("frontmatter", "links", "body"), "docstrings": ("rules", "tests")}
CRITERIA = {"docops": ("title", "tags", "scope"), "docstrings": ("describes", "scope")}
BAD = {
    "docops": ("wrong-title", "broken-link", "lost-paragraph", "changed-body", "plausible-nonsense"),
    "docstrings": ("plausible-nonsense", "wrong-name"),
}
PLACES = ("docs/notes", "docs/meetings", "docs/decisions", "docs/guides", "docs/archive/2024")
WORDS = ("budget", "harbour", "retro", "release", "router", "garden", "survey", "parser", "handover", "cache", "ledger")
CODE = ("src/ledger/rows.py", "src/ledger/close.py", "src/parser/lexer.py", "src/parser/tree.py", "src/web/forms.py")
CAUSES = {"set_field": "not offered", "suggest_fields": "unknown field", "read_note": "no such file"}
HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"'><b onmouseover=window.pwned=1>&amp;"
    "\u202e\u2066\u200b\x1b[31m\x00{{ 7*7 }}{% raw %}]]>--></style></textarea>"
)
SERVED = Serving(mode="phases", why="merged and one after the other: 1 more start of about 35 s costs less")
PHASES = (
    Phase(server="SmolLM2-135M-Instruct", start_s=36, seconds=420, tokens=31_000),
    Phase(server="doc.frontmatter@4", start_s=37, seconds=310, tokens=24_000),
)
FAILURES = (
    ("checks", "check links failed: 2 links lead nowhere: ../img/plan.png, setup.md#proxy"),
    ("review-b", "review.peer-b@2 says fail: the title names the author, not what the note is about"),
    ("frontmatter", "no final answer in 8 steps"),
    ("describe", "deadline of 120 s passed in code.docstring@4"),
)


def morning(*, nights: int = 6, items: int = 40, canaries: int = 12, halted: bool = False) -> Morning:
    """The morning after; `halted`: both reviewers of `docstrings` pass everything, so that its gate is closed."""
    past: list[NightReport] = []
    for number in range(nights):
        past.append(_night(number, 28 + 3 * number, canaries, past, START - timedelta(days=nights - number), False))
    found = _night(nights, items, canaries * (2 if halted else 1), past, START, halted)
    return Morning(report=found, past=tuple(past), pulls=pulls(found), learned=learned() if nights else growth.NOTHING)


def learned() -> Learned:
    """Two agents that learn: one on its way, whose new items pass less than its curve; one with a single adapter."""

    def points(*found: tuple[int, int]) -> tuple[Point, ...]:
        return tuple(
            Point(f"sha256:{n:064x}" if n else "", n + 1, rows, quality.share(hits, 120))
            for n, (rows, hits) in enumerate(found)
        )

    on_its_way, first = points((0, 44), (420, 66), (910, 79), (1530, 85)), points((0, 61), (260, 70))
    curve = growth.curve(on_its_way)
    assert curve is not None
    drift = growth.drifts(quality.share(11, 31), curve.at(1530), "its curve")
    return Learned(
        (
            Growth("doc.frontmatter", 4, on_its_way[3].adapter, 0.8, on_its_way, curve, drift, 212.0),
            Growth("code.docstring", 2, first[1].adapter, 0.8, first, None, None, 90.0),
        ),
        Estimate(value=0.062, low=-0.021, high=0.141),
    )


def _night(
    number: int, items: int, canaries: int, past: list[NightReport], start: datetime, halted: bool
) -> NightReport:
    dice = random.Random(1000 + number)
    name = f"{start:%Y-%m-%d}-1"
    clock = 0.0
    runs: list[Run] = []
    for index in range(items):
        clock += dice.uniform(18, 44)
        runs.append(_run(dice, name, number, index, "docops" if index % 4 else "docstrings", clock, None, halted))
    seeded: list[Run] = []
    for index in range(canaries):
        flow = "docstrings" if index % 3 == 2 else "docops"
        good = index % 4 == 3
        kind = "restored" if good else BAD[flow][index // 2 % len(BAD[flow])]
        known = Canary(good=good, kind=kind, tree=f"{number:02x}{index:02x}" * 10)
        seeded.append(_run(dice, name, number, 500 + index, flow, clock * index / max(1, canaries), known, halted))
    wall = clock + 95
    bounds = Bounds()
    measured = quality.measure_all(runs, seeded, past, bounds)
    shut = {one.flow: "; ".join(one.why) for one in measured if one.state == "halted"}
    runs = [
        run.model_copy(
            update={"outcome": Outcome.PARKED, "node": quality.HALTED, "reason": shut[run.item.flow], "result": None}
        )
        if run.outcome is Outcome.ACCEPTED and run.item.flow in shut
        else run
        for run in runs
    ]
    night = Night(
        id=name, started_at=start, base=BASE, branch="main", budget_s=6 * 3600.0 if number % 2 else 3600.0, window=16,
        engine="vllm", model="SmolLM2-135M-Instruct", agents=("doc.frontmatter@3", "review.peer-a@2"),
        tasks=tuple(TASKS.values()), items=items + 2, canaries=canaries, bounds=bounds,
        forecast=_forecast(past, items) if past else None, serving=SERVED if number % 2 else Serving(),
    )  # fmt: skip
    report = NightReport(
        night=night, finished_at=start + timedelta(seconds=wall), ended="finished" if number % 2 else "budget",
        runs=tuple(runs), left=2, notes=_notes() if not number % 2 else (),
        tokens_per_s=round(dice.uniform(140, 190), 1), mean_batch=round(5.2 + 0.6 * number, 1),
        prefix_hit_rate=round(0.71 + 0.02 * number, 3),
        host_cpu_s=round(items * dice.uniform(0.6, 0.9), 2), wall_s=round(wall, 1), canaries=tuple(seeded),
        quality=measured, timeline=_timeline(dice, runs, wall), phases=PHASES if number % 2 else (),
    )  # fmt: skip
    return report.model_copy(update={"prs": tuple(_pulls(report))})


def _forecast(past: list[NightReport], items: int) -> Forecast:
    speeds = [one.wall_s / len(one.runs) for one in past[-5:]]
    rates = [sum(r.outcome is Outcome.ACCEPTED for r in one.runs) / len(one.runs) for one in past[-5:]]
    return Forecast(
        items=items,
        seconds=(0.92 * min(speeds) * items, 1.06 * max(speeds) * items),
        accepted=(items * min(rates) * 0.95, items * min(1.0, max(rates) * 1.02)),
        nights=len(past[-5:]),
    )


def _notes() -> tuple[str, ...]:
    return (
        "docs/tasks/board-sync.md: its scope matches no file: boards/**/*.md",
        "docs/notes/2019-untitled-3.md:2: needs a person: two titles, and they differ",
        "tasks/old-wiki.md:7: its uuid is used by tasks/wiki.md; give each task its own",
    )


def _run(
    dice: random.Random, night: str, number: int, index: int, flow: str, at: float, canary: Canary | None, halted: bool
) -> Run:
    target = _target(dice, flow, index)
    agents = {node: label.format(v=1 + (number + 2) // 3) for node, label in NODES[flow].items()}
    if halted and flow == "docstrings":
        agents |= {"review-a": "review.change-a@2", "review-b": "review.change-b@2"}
    missing = flow == "docops"
    item = Item(
        id=f"{0xA000 + index:04x}" * 4, task=TASKS[flow], flow=flow, target=target, blob=f"{number:04x}{index:04x}" * 5,
        findings=(
            Finding(rule="missing:title" if missing else "docstring", line=1, repair=Repair.CHOOSE,
                    message="title is missing" if missing else "close_month has no docstring"),
        ),
        agents={node: label for node, label in agents.items() if label}, canary=canary,
    )  # fmt: skip
    failure = _failure(dice, flow, number, canary)
    passed = {"review-a": True, "review-b": True}
    if canary is not None and failure != "checks":
        fooled = dice.random() < 0.07
        for node in passed:
            passed[node] = canary.good or fooled or dice.random() < 0.06
    elif failure.startswith("review"):
        passed = {"review-a": dice.random() < (0.3 if flow == "docops" else 0.95), failure: False}
    if halted and flow == "docstrings":
        passed, failure = {"review-a": True, "review-b": True}, ""
    if canary is not None and failure != "checks":
        failure = next((node for node in passed if not passed[node]), "")
    order = list(agents)
    stop = order.index(failure) if failure and not failure.startswith("review") else len(order)
    nodes = dict.fromkeys(order[:stop], "passed")
    if failure:
        nodes |= {failure: "failed"} | dict.fromkeys(order[stop + 1 :], "skipped")
    if flow == "docops" and "rename" in nodes and dice.random() < 0.5:
        nodes["rename"] = "skipped"
    metrics = {node: _metrics(dice, node, agents[node], state) for node, state in nodes.items() if state != "skipped"}
    verdicts = [_verdict(dice, node, agents[node], flow, passed[node], index) for node in passed if node in metrics]
    outcome = Outcome.SEEDED if canary else Outcome.FAILED if failure else Outcome.ACCEPTED
    reason = ""
    if failure:
        reason = next(
            (why for node, why in FAILURES if node == failure), f"{agents[failure]} says fail: not what it says"
        )
    elif canary is None and index % 17 == 13:
        outcome, failure, reason = (
            Outcome.PARKED,
            "stack",
            "cannot merge: docs/index.md: both sides changed the same lines",
        )
    return Run(
        id=f"{number:02x}{index:04x}" + "c0ffee9d" * 3 + "42", night=night, item=item, base=BASE, outcome=outcome,
        node=failure, reason=reason,
        result=f"{number:02x}{index:04x}" + "d" * 34 if outcome is Outcome.ACCEPTED else None,
        nodes=nodes, agents=tuple(dict.fromkeys(agents[node] for node in metrics if agents[node])),
        node_agents={node: agents[node] for node in metrics if agents[node]},
        seconds=round(sum(m.seconds for m in metrics.values()), 2),
        prompt_tokens=sum(m.prompt_tokens for m in metrics.values()),
        completion_tokens=sum(m.completion_tokens for m in metrics.values()), started_s=round(at, 1),
        verdicts=tuple(verdicts), checks=_checks(dice, flow, failure) if "checks" in metrics else (), metrics=metrics,
    )  # fmt: skip


def _target(dice: random.Random, flow: str, index: int) -> str:
    if flow == "docstrings":
        return CODE[index % len(CODE)].replace(".py", f"_{index}.py" if index > 4 else ".py")
    first, second = dice.choice(WORDS), dice.choice(WORDS)
    return f"{PLACES[index % len(PLACES)]}/{2024 + index % 3}-{1 + index % 12:02d}-{first}-{second}.md"


def _failure(dice: random.Random, flow: str, number: int, canary: Canary | None) -> str:
    """The node at which the item fails; better from night to night."""
    if canary is not None:
        structural = canary.kind in ("broken-link", "lost-paragraph", "changed-body", "wrong-name")
        return "checks" if structural and dice.random() < 0.8 else ""
    if dice.random() < 0.62 + 0.035 * number:
        return ""
    places = ("checks", "review-b", "frontmatter") if flow == "docops" else ("checks", "review-b", "describe")
    return dice.choices(places, weights=(4, 3, 2))[0]


def _metrics(dice: random.Random, node: str, agent: str, state: str) -> NodeMetrics:
    if not agent or agent.startswith("plan."):
        seconds = dice.uniform(0.02, 0.05) if node == "merge" else dice.uniform(0.8, 2.4)
        return NodeMetrics(
            seconds=round(seconds, 3), tool_s=round(seconds, 3), cpu_s=round(seconds * 0.9, 3),
            memory_bytes=dice.randrange(30, 90) << 20, exit=state,
        )  # fmt: skip
    calls = dice.randrange(1, 5) if not node.startswith("review") else 3
    queue, prefill = dice.uniform(0.1, 2.6), dice.uniform(0.05, 0.25) * calls
    decode, tools = dice.uniform(0.9, 2.8) * calls, dice.uniform(0.02, 0.3) * calls
    tool = {"frontmatter": "set_field", "describe": "suggest_fields"}.get(node, "read_note")
    broken = dice.random() < 0.22
    return NodeMetrics(
        seconds=round(queue + prefill + decode + tools, 3), queue_s=round(queue, 3), prefill_s=round(prefill, 3),
        decode_s=round(decode, 3), tool_s=round(tools, 3), engine_s=round((prefill + decode) / 6, 3),
        cpu_s=round(tools * 0.8, 3), memory_bytes=dice.randrange(20, 50) << 20, prompt_tokens=620 * calls,
        cached_tokens=480 * calls, completion_tokens=dice.randrange(18, 60) * calls, model_calls=calls,
        schema_errors=int(dice.random() < 0.02), tool_calls={tool: calls, "finalize": 1},
        tool_errors={tool: {CAUSES[tool]: 1, **({"repetition": 2} if dice.random() < 0.3 else {})}} if broken else {},
        attempts=2 if state == "failed" and dice.random() < 0.5 else 1, exit=state,
    )  # fmt: skip


def _verdict(dice: random.Random, node: str, agent: str, flow: str, passes: bool, index: int) -> Verdict:
    names = CRITERIA[flow]
    wrong = "" if passes else names[index % len(names)]
    said = {
        "title": (
            "names “Harbour budget, second quarter”, as proposed",
            "names the author, the note is about the budget",
        ),
        "tags": ("of the three tags it would choose the same two", "no tag of the note's own list"),
        "describes": ("names what the function returns, as proposed", "names a database; the function closes a month"),
        "scope": ("only the front matter differs", "a paragraph differs"),
    }
    criteria = tuple(
        Criterion(
            name=name, verdict="fail" if name == wrong else "pass", reason=said[name][name == wrong],
            confidence=round(dice.uniform(0.55, 0.8) if name == wrong else dice.uniform(0.78, 0.995), 3),
        )
        for name in names
    )  # fmt: skip
    return Verdict(
        node=node, agent=agent, verdict="pass" if passes else "fail", criteria=criteria,
        reason=next((c.reason for c in criteria if c.verdict == "fail"), "every criterion passes"),
        confidence=min(c.confidence or 0.0 for c in criteria),
    )  # fmt: skip


def _checks(dice: random.Random, flow: str, failure: str) -> tuple[CheckResult, ...]:
    found = []
    for number, name in enumerate(CHECKS[flow]):
        passed = not (failure == "checks" and number == 1)
        tests = name == "tests"
        detail = "" if passed else "2 links lead nowhere" if flow == "docops" else "test_close_month failed"
        found.append(
            CheckResult(
                name=name, passed=passed, detail=detail, seconds=round(dice.uniform(0.2, 0.9), 2),
                tests_broken=int(tests and not passed), tests_fixed=int(tests and passed and dice.random() < 0.3),
            )
        )  # fmt: skip
    return tuple(found)


def _timeline(dice: random.Random, runs: list[Run], wall: float) -> tuple[Sample, ...]:
    samples, tokens = [], 0
    for step in range(61):
        at = wall * step / 60
        done = [run for run in runs if run.started_s <= at]
        left = len(runs) - len(done)
        busy = min(16, left)
        tokens += dice.randrange(int(1.2 * wall), int(3.1 * wall) + 1) if left and step else 0
        waiting = max(0, busy - 8 + dice.randrange(-3, 4)) if left else 0
        samples.append(
            Sample(
                t_s=round(at, 1), done=len(done), accepted=sum(run.outcome is Outcome.ACCEPTED for run in done),
                running=busy, left=max(0, left - busy), requests=min(8, busy), waiting=waiting, tokens=tokens,
            )
        )  # fmt: skip
    return tuple(samples)


def _pulls(report: NightReport) -> list[PullRequest]:
    titles = {"docops": "Normalise the notes", "docstrings": "Describe what has no docstring"}
    found = []
    for number, (flow, task) in enumerate(TASKS.items()):
        runs = [run for run in report.runs if run.item.flow == flow and run.outcome is Outcome.ACCEPTED]
        if not runs:
            continue
        items = [
            PullItem(item=run.item.id, run=run.id, target=run.item.target, commit=run.result or "",
                     summary=f"docs: normalise {run.item.target}", dropped=index == 2)
            for index, run in enumerate(runs)
        ]  # fmt: skip
        found.append(
            PullRequest(
                id=11 + number, task=task, title=titles[flow], night=report.night.id,
                branch=f"pantheon/{'normalise-the-notes' if flow == 'docops' else 'describe'}/{number + 1}",
                onto="main", base=BASE, tip=items[-1].commit, state=PullState.OPEN,
                created_at=report.finished_at, items=tuple(items),
            )
        )  # fmt: skip
    return found


def pulls(report: NightReport) -> tuple[PullView, ...]:
    """The PRs of a report with their diffs."""
    runs = {run.id: run for run in report.runs}
    return tuple(
        PullView(pull, tuple(ItemView(item, runs[item.run], patch_of(runs[item.run])) for item in pull.items))
        for pull in report.prs
    )


def patch_of(run: Run) -> str:
    path = run.item.target
    head = f"diff --git a/{path} b/{path}\nindex 3b18e51..9d5f2ab 100644\n--- a/{path}\n+++ b/{path}\n"
    if run.item.flow == "docstrings":
        return (
            f"{head}@@ -14,6 +14,11 @@ class Ledger:\n     rows: list[Row]\n \n"
            "     def close_month(self, month: Month) -> Total:\n"
            '+        """Close a month: no row of it can change any more.\n+\n+        Gives the total of its rows.\n'
            '+        """\n         open_rows = [row for row in self.rows if row.month == month]\n'
            "         for row in open_rows:\n"
        )
    title = path.rsplit("/", 1)[1].removesuffix(".md")[8:].replace("-", " ").capitalize()
    return (
        f"{head}@@ -1,5 +1,8 @@\n ---\n-Title: \n-tag: [Q2,budget ]\n"
        f'+title: "{title}"\n+slug: "{title.lower().replace(" ", "-")}"\n'
        f'+tags: [budget, q2]\n+created_at: "2024-04-02T09:00:00Z"\n ---\n \n # {title}\n'
    )


KEPT = {"id", "run", "item", "night", "base", "tip", "commit", "blob", "oid", "tree", "result", "run_commit", "engine"}


def poisoned(found: Morning) -> Morning:
    """The same morning with markup, control and bidirectional characters in every text that a person, a model or a file
    name can bring in, keys of tables included."""

    def worse(value: Any, key: str = "") -> Any:
        match value:
            case dict():
                texts = key in ("tool_calls", "tool_errors", "nodes", "node_agents", "metrics") or key == "causes"
                below = "causes" if key == "tool_errors" else ""
                return {f"{name}{HOSTILE}" if texts else name: worse(v, below or name) for name, v in value.items()}
            case list():
                return [worse(one, key) for one in value]
            case str() if key not in KEPT and not key.endswith(("_at", "_sha256")):
                return value if key in _CLOSED else f"{value}{HOSTILE}"
        return value

    def report(one: NightReport) -> NightReport:
        return NightReport.model_validate(worse(one.model_dump(mode="json")))

    def item(one: ItemView) -> ItemView:
        return ItemView(
            PullItem.model_validate(worse(one.item.model_dump(mode="json"))),
            Run.model_validate(worse(one.run.model_dump(mode="json"))),
            f"{one.patch}+{HOSTILE}\n",
        )

    views = tuple(
        PullView(PullRequest.model_validate(worse(v.pull.model_dump(mode="json"))), tuple(map(item, v.items)))
        for v in found.pulls
    )
    agents = tuple(replace(one, agent=f"{one.agent}{HOSTILE}") for one in found.learned.agents)
    return Morning(report(found.report), tuple(map(report, found.past)), views, replace(found.learned, agents=agents))


_CLOSED = {"outcome", "state", "verdict", "ended", "repair", "when", "mode"}  # of these only certain words are allowed
