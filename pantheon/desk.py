"""The commands with which a person looks: status, plan, report, run; and init, trust, hook. prdesk.py has those about
local PRs.

Ring 4: takes plain values, calls the rings below, prints text or JSON, returns an exit code.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pantheon import (
    artifacts,
    config,
    damage,
    doorbell,
    hooks,
    morning,
    nights,
    page,
    past,
    prs,
    publish,
    refresh,
    reindex,
    review,
    roster,
    screen,
    sync,
    tasks,
)
from pantheon import plan as plans
from pantheon import report as reports
from pantheon import trust as trusts
from pantheon.errors import DiskFull, InputError, PantheonError, RepositoryError, TrustError
from pantheon.git import Repo, Signer
from pantheon.names import is_night
from pantheon.places import Places
from pantheon.records import Look, NodeState, Outcome, PullRequest, PullState, seconds
from pantheon.survey import Survey, read_config, survey
from pantheon.tools import command

SHOWN = 20  # PRs that `status` lists before the rest is only counted
LOOK_S = 0.2  # how long a command that only looks waits for one that decides
REFUSED = 64  # a hook's no: 1 is also how a broken Python ends


def here() -> Repo:
    """The repository of the current directory. Raises RepositoryError."""
    return Repo.discover(Path.cwd())


def signer(repo: Repo) -> Signer:
    return Signer.load_or_create(repo.common_dir / "pantheon" / "keys")


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def make_plan(repo: Repo, found: Survey, teacher: str = "", pulls: Sequence[PullRequest] | None = None) -> plans.Plan:
    """Tonight's queue from a survey and the PRs that wait. `teacher`: the model that would do the work that edits;
    `pulls`: every PR, where they were read."""
    pulls = prs.load_all(repo) if pulls is None else pulls
    said = review.standing(repo, pulls)
    planned = plans.freeze(
        found.tasks,
        {path: entry.oid for path, entry in found.entries.items()},
        found.judge,
        found.config.flows,
        found.config.agents,
        ready=found.config.settings.tasks.ready,
        model=found.config.settings.engine.model,
        rates=nights.rates(repo) if nights.choosing(found) else None,
        prs=pulls,
        rejected=said.rejected,
        never=said.never,
        hints=said.hints,
        later={name: f"{until:%Y-%m-%d %H:%M} UTC" for name, until in said.later.items() if until > now()},
    )
    planned = past.staged(repo, found.config, planned, teacher).plan
    night = found.config.settings.night
    planned = plans.within_debt(
        planned,
        Counter(pull.task for pull in pulls if pull.state is PullState.OPEN),
        most=night.max_open_prs,
        per_task=night.max_open_prs_per_task,
        per_pr=night.max_items_per_pr,
    )
    notes = (*found.problems, *found.config.ignored, *planned.notes)
    return plans.Plan(planned.items, planned.tasks, tuple(plans.printable(note) for note in notes))


def mended(repo: Repo) -> list[str]:
    """What a killed command left is put right before PRs are shown; what was recorded, a line each. Somebody who
    decides meanwhile does it as well, and a repository that cannot be written is only looked at."""
    if review.interrupted(repo) or prs.torn(repo, prs.look(repo)):
        with suppress(RepositoryError, DiskFull), review.alone(repo, LOOK_S):
            done = settled(repo, None)
            return [f"PR {done.id} was decided when the command was killed: it is {done.state}"] if done else []
    return []


def settled(repo: Repo, where: Places | None) -> PullRequest | None:
    """Record and put right what a killed command left; the PR that an accept or an undo was recorded of. To be called
    under `review.alone`."""
    when, key = now(), signer(repo)
    prs.mend(repo, when, key)
    done = review.finish(repo, when, key)
    if done is not None and done.promotes and where is not None:
        ends = (done.landed_on, done.landed) if done.state is PullState.ACCEPTED else (done.tip, repo.head().commit)
        trusts.carry(repo, ends[0], ends[1], done.items[0].target, where.state, when)
    return done


# --- looking ---------------------------------------------------------------------------------------------------------


def status(repo: Repo, where: Places, *, as_json: bool, lasts: Callable[[float], None] = lambda _: None) -> int:
    """What needs me? Then queue, last night, open PRs. `lasts` is told each time from which it will be another one."""
    found = _standing(repo, where, lasts)
    return screen.print_json(_as_data(repo, found)) if as_json else _say(found)


@dataclass(frozen=True)
class _Standing:
    """Everything that `status` tells; `finished`: what a killed command left, which was put right before."""

    finished: Sequence[str]
    pulls: Sequence[PullRequest]
    looks: Mapping[int, Look]
    survey: Survey
    planned: plans.Plan
    trusted: bool
    last: nights.Outline | None
    spoilt: Sequence[damage.Damage]
    unfinished: str | None
    holder: int | None  # the process that has the night's lock
    learning: Sequence[str]
    clones: Sequence[str]
    daemon: str | None

    @property
    def needs(self) -> str:
        awake = [pull for pull in self.pulls if self.looks[pull.id].word != "later"]
        quality = self.last.report.quality if self.last else ()
        return reports.needs_you(awake, self.failed, len(self.survey.problems), self.trusted, quality)

    @property
    def failed(self) -> int:
        return self.last.outcomes[Outcome.FAILED] if self.last else 0


def _standing(repo: Repo, where: Places, lasts: Callable[[float], None]) -> _Standing:
    finished: Sequence[str] = ()
    seen = prs.look(repo)
    if review.interrupted(repo) or prs.torn(repo, seen):
        finished, seen = mended(repo), prs.look(repo)
    for moment in prs.wakes(seen.pulls):
        if moment > now():
            lasts(moment.timestamp())
    pulls = [pull for pull in seen.pulls if pull.state is PullState.OPEN]
    looks = refresh.looks(repo, pulls, now())
    found = survey(repo, repo.head().commit, config.load_user(where.config).limits)
    planned = make_plan(repo, found, pulls=seen.pulls)
    try:
        last = nights.outline(repo)
    except RepositoryError:
        last = None
    spoilt = damage.look(repo, seen)
    if (holder := nights.holder(repo)) is not None:
        lasts(0.0)  # when it ends no file says so
    return _Standing(
        finished=finished,
        pulls=pulls,
        looks=looks,
        survey=found,
        planned=planned,
        trusted=trusts.look(repo, found.entries, where.state).trusted,
        last=last,
        spoilt=spoilt,
        unfinished=nights.unfinished(repo) if not spoilt else None,  # it may be spoilt: no night goes on beside it
        holder=holder,
        learning=reports.growth_lines(past.grown_now(repo, found.config)),
        clones=sync.standing(repo, now(), seen),
        daemon=_daemon_says(repo, where),
    )


def _as_data(repo: Repo, found: _Standing) -> dict[str, object]:
    return {
        "needs_you": found.needs,
        "trusted": found.trusted,
        "queued_items": len(found.planned.items),
        "queued_tasks": len(found.planned.tasks),
        "open_prs": [
            {**pull.model_dump(mode="json"), "look": found.looks[pull.id].model_dump()} for pull in found.pulls
        ],
        "last_night": found.last.report.night.id if found.last else None,
        "unfinished_night": found.unfinished,
        "night_process": found.holder,
        "daemon": found.daemon,
        "failed": found.failed,
        "problems": list(found.survey.problems),
        "notes": list(found.planned.notes),
        "learning": found.learning,
        "clones": found.clones,
        "damaged": [one.model_dump(mode="json") for one in found.spoilt],
    }


def _say(found: _Standing) -> int:
    print(found.needs)
    for one in found.spoilt:
        print(plans.printable(f"damaged: {one}"))
        print(plans.printable(f"  next: {one.hint}"))
    for line in (*found.finished, *found.clones):
        print(plans.printable(line))
    planned = found.planned
    parked = "" if found.trusted or not planned.items else ", parked until you trust .pantheon/"
    print(f"queue: {_queued(planned)}{parked}")
    if found.unfinished:
        how = f"is under way, by process {found.holder}" if found.holder else "was interrupted"
        print(f"night {found.unfinished} {how}; git pantheon {'metrics' if found.holder else 'night --now resumes it'}")
    if found.daemon is not None:
        print(f"daemon: {plans.printable(found.daemon)}")
    if found.last:
        tally, last = found.last.outcomes, found.last.report
        print(
            f"last night: {last.night.id}: {tally[Outcome.ACCEPTED]} accepted, "
            f"{tally[Outcome.FAILED]} failed, {last.left} left"
        )
    for line in found.learning:
        print(line)
    if found.pulls:
        screen.pulls(found.pulls[:SHOWN], everything=False, looks=found.looks)
    if len(found.pulls) > SHOWN:
        print(f"and {len(found.pulls) - SHOWN} more PRs: git pantheon pr")
    for note in planned.notes[:8]:
        print(f"note: {plans.printable(note)}")
    if len(planned.notes) > 8:
        print(f"note: and {len(planned.notes) - 8} more: git pantheon plan")
    return 0


def _daemon_says(repo: Repo, where: Places) -> str | None:
    """What the user's daemon is up to here; None: none watches this repository."""
    if not (repo.common_dir / "pantheon" / roster.PID).exists():
        return None
    running = roster.running(where)
    return doorbell.standing(Path(running.socket), repo.common_dir) if running else None


def _queued(planned: plans.Plan) -> str:
    tasks = f"{len(planned.tasks)} task{'s' if len(planned.tasks) != 1 else ''}"
    return f"{tasks}, {len(planned.items)} item{'s' if len(planned.items) != 1 else ''} for tonight"


def plan(repo: Repo, *, as_json: bool, branch: str | None = None) -> int:
    """What tonight would run, in what order, how long. `branch`: on this one, whatever is checked out."""
    found = survey(repo, repo.head(branch).commit)
    planned = make_plan(repo, found)
    settings = found.config.settings
    expected = past.expected(
        repo,
        planned.items,
        settings.gate.canaries,
        budget_s=seconds(settings.night.budget),
        engine=settings.engine.kind,
        model=past.model_of(settings.engine),
        window=settings.night.window,
    )
    if as_json:
        return screen.print_json(
            {
                "items": [item.model_dump(mode="json") for item in planned.items],
                "tasks": [task.path for task in planned.tasks],
                "notes": list(planned.notes),
                "forecast_s": list(expected.seconds) if expected else None,
            }
        )
    print(_queued(planned))
    for number, item in enumerate(planned.items, 1):
        rules = ", ".join(dict.fromkeys(finding.rule for finding in item.findings))
        print(f"{number:4}  {item.flow}  {plans.printable(item.target)}  ({rules})")
    sown = past.canaries_for(Counter(item.flow for item in planned.items), settings.gate.canaries)
    if sown:
        print(f"and about {sown} {'canary' if sown == 1 else 'canaries'}, to measure the reviewers")
    if expected and planned.items:
        low, high = (reports.span(value) for value in expected.seconds)
        known = f"from {plans.many(expected.nights, 'night')} measured here"
        print(f"time: {low} to {high}, {known if expected.nights else 'a guess: no night has ended here yet'}")
        if expected.items < len(planned.items):
            print(f"budget: {settings.night.budget}, for about {expected.items} of them: git pantheon capacity")
    for note in planned.notes:
        print(f"note: {plans.printable(note)}")
    return 0


def report(repo: Repo, night: str | None, *, as_json: bool, markdown: bool, page_to: str | None = None) -> int:
    """The morning report. `page_to`: the file that the page is written to; "-" the output; "" a name for it."""
    if page_to is not None:
        if night is None and is_night(page_to):  # --html NIGHT: the option takes the word that follows it
            night, page_to = page_to, ""
        return _report_page(morning.gather(repo, night, now()), page_to)
    if as_json:
        return screen.print_json(nights.load_report(repo, night).model_dump(mode="json"))
    found = morning.current(repo, night)
    if markdown:
        print(reports.markdown(found, morning.learned(repo, found)), end="")
    else:
        screen.night_report(found, morning.learned(repo, found))
    return 0


def _report_page(found: reports.Morning, page_to: str) -> int:
    text = page.html(found, morning.templates())
    if page_to == "-" or (not page_to and not sys.stdout.isatty()):
        sys.stdout.buffer.write(text.encode())
        return 0
    path = Path(page_to or f"pantheon-report-{re.sub('[^0-9A-Za-z-]', '_', found.report.night.id)}.html")
    try:
        if not page_to:
            path.unlink(missing_ok=True)  # a link of that name, which a repository may hold, is not written through
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        why = str(error.strerror)
        raise PantheonError("cannot write the report", str(path), why, "git pantheon report --html FILE") from error
    print(f"wrote {plans.printable(str(path))} ({len(text) / 1000:.0f} kB): open it in any browser")
    return 0


def run(repo: Repo, name: str, artifact: str | None, *, as_json: bool) -> int:
    """One run: its nodes, why it failed, its artifacts; or one artifact's bytes."""
    matches = [ref.rsplit("/", 1)[1] for ref in repo.refs(artifacts.RUNS) if ref.rsplit("/", 1)[1].startswith(name)]
    if not matches:
        matches = _carried(repo, name)
        if len(matches) > 1 and as_json:
            return screen.print_json([artifacts.load_run(repo, one).model_dump(mode="json") for one in matches])
        if len(matches) > 1 and not artifact:
            print(f"{plans.printable(name)} carries {len(matches)} runs:")
            return max(run(repo, one, None, as_json=False) for one in matches)
    if len(matches) != 1:
        why = "no run has that id, and no commit of that name carries one" if not matches else ""
        why = why or f"{len(matches)} runs begin so: {', '.join(one[:12] for one in matches[:5])}"
        raise RepositoryError("no such run", name, why, "git pantheon report")
    found = artifacts.load_run(repo, matches[0])
    if artifact:
        node, _, file = artifact.partition("/")
        sys.stdout.buffer.write(artifacts.read_artifact(repo, found.id, node, file))
        return 0
    if as_json:
        return screen.print_json(found.model_dump(mode="json"))
    print(f"run {found.id}: {found.outcome} in night {found.night}, {plans.printable(found.item.target)}")
    for node, state in found.nodes.items():
        print(f"  {node:14} {state}{'  <- ' + plans.printable(found.reason) if state == NodeState.FAILED else ''}")
    at = repo.refs(artifacts.RUNS)[artifacts.run_ref(found.id)]
    for path in sorted(repo.entries(at)):
        print(f"  artifact {plans.printable(path)}")
    print(f"look: git pantheon run {found.id[:12]} NODE/NAME")
    return 0


def _carried(repo: Repo, name: str) -> list[str]:
    """The runs that a commit carries, by its notes, its trailers or its change."""
    try:
        commit = repo.resolve(name)
    except RepositoryError:
        return []
    return list(reindex.runs_of(repo, commit))


# --- the repository --------------------------------------------------------------------------------------------------


def init(repo: Repo, program: str, *, dry_run: bool) -> int:
    plan_ = hooks.plan_init(repo, config.packaged().parent, program)
    for line in plan_.lines():
        print(line)
    if dry_run:
        print("dry run: nothing was written")
        return 0
    hooks.apply_init(repo, plan_)
    return 0


def uninstall(repo: Repo, *, purge: bool) -> int:
    plan_ = hooks.plan_uninstall(repo, purge)
    for line in plan_.lines():
        print(line)
    hooks.apply_uninstall(repo, purge)
    return 0


def trust(repo: Repo, where: Places, *, yes: bool, as_json: bool) -> int:
    """Show what `.pantheon/` of HEAD can run and what changed since it was trusted, then ask."""
    commit = repo.head().commit
    entries = repo.entries(commit)
    found = trusts.look(repo, entries, where.state)
    if as_json:
        return screen.print_json(
            {"trusted": found.trusted, "digest": found.digest, "foreign": list(found.foreign), "commit": commit}
        )
    if not found.foreign:
        print(f"{config.DIRECTORY}/ holds only what Pantheon packages: there is nothing to trust")
        return 0
    settings = read_config(repo, commit, entries)
    print(f"{config.DIRECTORY}/ of {plans.printable(str(repo.root))} at {commit[:12]}")
    print("can run, each in a sandbox without network:")
    for check in settings.checks.values():
        sees = f"  (sees {', '.join(check.needs)} of your working tree)" if check.needs else ""
        print(f"  {plans.printable(check.name):14} {plans.printable(shlex.join(check.run) + sees)}")
    for name in sorted(name for name in settings.tools if name.endswith(".toml")):
        tool, _ = command.declaration(settings.tools[name], settings.sources[f"{config.TOOLS}{name}"])
        print(f"  {plans.printable(tool.name):14} {plans.printable(shlex.join(tool.run))}  (a tool of agents)")
    print(f"with the model {plans.printable(settings.settings.engine.model)}")
    for said in settings.ignored:
        print(f"note: {plans.printable(said)}")
    if found.trusted:
        print("you trust it already")
        return 0
    since = f"you trusted it on {found.before.when:%Y-%m-%d}" if found.before else "the packaged defaults"
    print(f"changes since {since}:")
    for line in trusts.changes(found):
        print(f"  {line}")
    if not yes:
        if not sys.stdin.isatty():
            raise TrustError("not trusted", str(repo.root), "there is no terminal to ask on", f"{trusts.HINT} --yes")
        if input("trust it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("not trusted; nothing of it runs")
            return 1
    trusts.record(found, where.state, now())
    print("trusted; a change to it asks again")
    return 0


def hook(repo: Repo, where: Places, name: str, rest: Sequence[str], environ: Mapping[str, str], stdin: TextIO) -> int:
    """What the hook stubs call. Only pre-commit and pre-push may refuse, with a status that no crash ends with."""
    match name:
        case "pre-push":
            return _pre_push(repo, stdin.read().splitlines(), rest, environ.get("PANTHEON_PUSH") == "1")
        case "pre-commit":
            index = environ.get("GIT_INDEX_FILE")
            return _pre_commit(repo, Path(index).absolute() if index else None)
        case "post-commit":
            return _post_commit(repo, where)
        case _:
            return 0


def _post_commit(repo: Repo, where: Places) -> int:
    found = survey(repo, repo.head().commit)
    planned = make_plan(repo, found)
    for problem in (*found.problems, *found.config.ignored):
        print(f"pantheon: {plans.printable(problem)}")
    if not trusts.look(repo, found.entries, where.state).trusted:
        print(f"pantheon: {config.DIRECTORY}/ changed; nothing runs until you read and trust it: {trusts.HINT}")
    if planned.items:
        print(f"pantheon: {_queued(planned)}")
    return 0


def _pre_push(repo: Repo, lines: Sequence[str], rest: Sequence[str], allow: bool) -> int:
    head = repo.head().commit
    protected = read_config(repo, head, repo.entries(head)).settings.push.protected
    remote = rest[0] if rest else ""
    refused, said = publish.answer(repo, lines, remote=remote, protected=protected, allow=allow)
    for line in said:
        print(f"pantheon: {line}", file=sys.stderr)
    return REFUSED if refused else 0


def _pre_commit(repo: Repo, index_file: Path | None) -> int:
    """Refuse a staged task file that cannot be used."""
    staged = repo.staged(index_file)
    code = 0
    for path in tasks.select(sorted(staged), _task_paths(repo)):
        try:
            tasks.parse(staged[path], path)
        except InputError as error:
            print(f"pantheon: {error.render()}", file=sys.stderr)
            code = REFUSED
    if code:
        print("pantheon: to commit it all the same: git commit --no-verify", file=sys.stderr)
    return code


def _task_paths(repo: Repo) -> tuple[str, ...]:
    """`tasks.paths` of HEAD; the defaults before the first commit."""
    try:
        head = repo.head().commit
    except RepositoryError:
        return config.load(lambda _: None, ()).settings.tasks.paths
    return read_config(repo, head, repo.entries(head)).settings.tasks.paths
