"""PRs against a model, on real git: whatever people and kills do in whatever order, each PR is what the model says.

A longer run: PANTHEON_MACHINE=EXAMPLES,STEPS (a setting of this module only).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
from conftest import git
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pantheon import faults, prs, refresh, review
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.records import PullItem, PullRequest, PullState

EXAMPLES, STEPS = (int(word) for word in os.environ.get("PANTHEON_MACHINE", "6,12").split(","))
FILES = ("a.md", "b.md", "c.md", "d.md")
START = datetime(2026, 3, 1, tzinfo=UTC)
OPEN, ACCEPTED, REJECTED = PullState.OPEN, PullState.ACCEPTED, PullState.REJECTED
some = st.sets(st.sampled_from(FILES), min_size=1)
which = st.integers(0, 7)
kills = st.one_of(st.just(0), st.integers(1, 14))  # at which step; 0: nobody is killed


class Killed(BaseException):
    """As good as a kill: nothing of ours catches it."""


@dataclass(frozen=True)
class Now:
    """What a PR is after a decision. `texts`: of each live file what it was where the stack begins."""

    texts: dict[str, str]
    base: str
    state: PullState = OPEN
    troubles: frozenset[str] = frozenset()
    asleep: bool = False

    @property
    def live(self) -> frozenset[str]:
        return frozenset(self.texts)


@dataclass
class Model:
    """One PR as it must be. `stack`: what an undo goes back to; `landed`: (main before, its texts, main after)."""

    new: dict[str, str]
    runs: dict[str, str]
    stack: list[Now]
    whose: str = "ours"
    landed: tuple[str, dict[str, str], str] | None = None

    @property
    def now(self) -> Now:
        return self.stack[-1]


@dataclass
class Outcome:
    """What an operation can leave, one state after the other: the last when nobody is killed. `refused`: it raises."""

    states: list[Model] = field(default_factory=list)
    refused: bool = False
    merges: bool = False


class Machine(RuleBasedStateMachine):
    def __init__(self, place: Path) -> None:
        super().__init__()
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self.root = place
        git("init", "-q", "-b", "main", cwd=place)
        for name in FILES:
            (place / name).write_text(f"{name}\n")
        (place / "banned").write_text("")
        git("add", "-A", cwd=place)
        git("commit", "-q", "-m", "first", cwd=place)
        (place / "mine.txt").write_text("mine, and not tracked\n")
        self.repo = Repo.discover(place)
        self.texts = {name: f"{name}\n" for name in FILES}
        self.banned: set[str] = set()
        self.models: dict[int, Model] = {}
        self.count, self.clock = 0, START
        self.config = (place / ".git/config").read_bytes()
        self.main = self.repo.head().commit

    # --- helpers -----------------------------------------------------------------------------------------------------

    def tick(self) -> datetime:
        self.clock += timedelta(minutes=1)
        return self.clock

    def pick(self, number: int, *states: PullState) -> int | None:
        found = [n for n, model in self.models.items() if not states or model.now.state in states]
        return found[number % len(found)] if found else None

    def load(self, number: int) -> PullRequest:
        return prs.load(self.repo, number)

    def settled(self) -> None:
        """What every command begins with."""
        prs.mend(self.repo, self.tick(), None)
        review.finish(self.repo, self.tick(), None)

    @contextmanager
    def checking(self, pull: PullRequest, onto: str) -> Iterator[Callable[[str], str]]:
        names = (self.repo.read_path(onto, "banned") or b"").decode().split()

        def sound(commit: str) -> str:
            bad = [n for n in names if self.repo.read_path(commit, n) != self.repo.read_path(onto, n)]
            return f"banned: {' '.join(bad)}" if bad else ""

        yield sound

    def do(self, number: int, job: Callable[[PullRequest], object], wanted: Outcome, kill: int) -> None:
        """Do it, be killed at a step of it, and hold what is left against the model."""
        seen: list[str] = []

        def strike(name: str) -> None:
            if name.startswith(("pull ", "accept ", "decision ")):
                seen.append(name)
                if len(seen) == kill:
                    raise Killed(name)

        self.settled()
        before = self.models[number]
        faults.arm(strike)
        try:
            job(self.load(number))
        except Killed:
            faults.arm(None)
            self.settled()
            left = self.load(number)
            fits = [state for state in (before, *wanted.states) if self.fault(left, state) is None]
            assert fits, f"killed at {seen}: {[self.fault(left, state) for state in (before, *wanted.states)]}"
            self.models[number] = fits[-1]
        except PantheonError:
            assert wanted.refused, f"refused: {wanted}"
            self.models[number] = wanted.states[-1] if wanted.states else before
        else:
            assert not wanted.refused
            self.models[number] = wanted.states[-1]
        finally:
            faults.arm(None)
        if wanted.merges and self.repo.head().commit != self.main:
            model = self.models[number]
            if model.now.state is ACCEPTED:
                model.landed = (self.main, dict(self.texts), self.repo.head().commit)
                self.texts |= {name: model.new[name] for name in model.now.live}
                self.main = self.repo.head().commit
            elif before.landed is not None:  # taken back
                self.main, self.texts = before.landed[0], dict(before.landed[1])
                model.landed = None

    def fault(self, pull: PullRequest, model: Model) -> str | None:
        """How a record differs from the model; None where it does not."""
        now = model.now
        have = (pull.state, frozenset(i.target for i in pull.live), frozenset(t.target for t in pull.troubles))
        want = (now.state, now.live, now.troubles)
        rest = (pull.base, pull.later is not None), (now.base, now.asleep)
        return None if have == want and rest[0] == rest[1] else f"{have} {rest[0]} is not {want} {rest[1]}"

    # --- what the model says -----------------------------------------------------------------------------------------

    def grown(self, model: Model, now: Now, whose: str | None = None) -> Model:
        """The model after one more decision."""
        return replace(model, stack=[*model.stack, now], whose=whose or model.whose)

    def off(self, model: Model, names: set[str] | frozenset[str]) -> Outcome:
        now = model.now
        if now.state is not OPEN or not names <= now.live:
            return Outcome(refused=True)
        if names == now.live:
            closed = replace(now, state=REJECTED, troubles=frozenset(), asleep=False)
            return Outcome([self.grown(model, closed)])
        if model.whose != "ours":
            return Outcome(refused=True)
        texts = {name: text for name, text in now.texts.items() if name not in names}
        return Outcome([self.grown(model, replace(now, texts=texts, troubles=now.troubles - names))])

    def refreshed(self, model: Model) -> Outcome:
        now = model.now
        if now.state is not OPEN or model.whose != "ours":
            return Outcome(refused=True)
        if now.base == self.main and not now.troubles:
            return Outcome([model])
        apart = {n for n, text in now.texts.items() if self.texts[n] not in (text, model.new[n])}
        bad = {n for n in now.live & self.banned if self.texts[n] != model.new[n]}
        if apart | bad:
            after = replace(now, troubles=frozenset(apart | bad))
        else:
            after = replace(now, texts={n: self.texts[n] for n in now.live}, base=self.main, troubles=frozenset())
        return Outcome([replace(model, stack=[*model.stack[:-1], after])])

    def accepted(self, model: Model, drop: set[str]) -> Outcome:
        now, states = model.now, list[Model]()
        if now.state is not OPEN or not drop <= now.live or drop == now.live or model.whose != "ours":
            return Outcome(refused=True)
        if drop:
            states += self.off(model, drop).states
        if now.base != self.main or now.troubles:
            states += self.refreshed(states[-1] if states else model).states
            if states[-1].now.troubles:
                return Outcome(states, refused=True)
        last = states[-1] if states else model
        states.append(self.grown(last, replace(last.now, state=ACCEPTED, troubles=frozenset(), asleep=False)))
        return Outcome(states, merges=True)

    def undone(self, number: int, model: Model) -> Outcome:
        if len(model.stack) < 2:
            return Outcome(refused=True)
        again, taken = model.stack[-2], model.now.state is ACCEPTED
        for other, one in self.models.items():
            if other > number and one.now.state in (OPEN, ACCEPTED) and one.now.live & again.live:
                return Outcome(refused=True)
        if model.whose == "theirs" or (model.now.state is OPEN and model.whose != "ours"):
            return Outcome(refused=True)
        if taken and (model.landed is None or model.landed[2] != self.main):
            return Outcome(refused=True)
        return Outcome([replace(model, stack=model.stack[:-1], whose="ours")], merges=taken)

    # --- rules -------------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.open({"a.md", "b.md", "c.md"}, 0)

    @rule(names=some, kill=kills)
    def open(self, names: set[str], kill: int) -> None:
        """A night offers what no open PR has."""
        waiting = {n for model in self.models.values() if model.now.state is OPEN for n in model.now.live}
        names = {n for n in names if n not in waiting}
        if not names or len(self.models) >= 4:
            return
        self.settled()
        tip, items, new, runs = self.main, list[PullItem](), dict[str, str](), dict[str, str]()
        for name in sorted(names):
            self.count += 1
            run, text = f"{self.count:08x}", f"{name} by run {self.count}\n"
            tree = self.repo.write_tree(self.repo.tree_of(tip), {name: (0o100644, self.repo.write_blob(text.encode()))})
            tip = self.repo.commit(tree, [tip], f"{name}\n\nPantheon-Task: t\nPantheon-Run: {run}\n", self.tick())
            items.append(PullItem(item=name, run=run, target=name, commit=tip))
            new[name], runs[name] = text, run
        number, seen = 1 + max(self.models, default=0), list[str]()

        def strike(point: str) -> None:
            seen.append(point)
            if point.startswith("pull ") and len([p for p in seen if p.startswith("pull ")]) == kill:
                raise Killed(point)

        def offer() -> None:
            prs.open_pull(
                self.repo, task="t", slug="tidy", title="Tidy", night="n", onto="main", base=self.main, tip=tip,
                items=items, when=self.tick(), signer=None,
            )  # fmt: skip

        faults.arm(strike)
        try:
            offer()
        except Killed:
            faults.arm(None)
            self.settled()
            if number not in {pull.id for pull in prs.load_all(self.repo)}:
                offer()  # the night that goes on
        finally:
            faults.arm(None)
        texts = {name: self.texts[name] for name in names}
        self.models[number] = Model(new, runs, [Now(texts, self.main)])

    @rule(number=which, names=some, whole=st.booleans(), kill=kills)
    def accept(self, number: int, names: set[str], whole: bool, kill: int) -> None:
        if (number := self.pick(number, OPEN) or 0) == 0:
            return
        drop = set() if whole else names & self.models[number].now.live

        def job(pull: PullRequest) -> None:
            left = sorted(drop)
            if refresh.moved(self.repo, pull) or pull.troubles:
                review.must_be_ours(self.repo, pull)
                review.must_leave_some(pull, left)
                if left:
                    pull, left = review.drop(self.repo, pull, items=left, when=self.tick(), signer=None), []
                pull = refresh.refresh(self.repo, pull, self.checking, self.tick(), None)
                if pull.troubles:
                    raise RepositoryError("in conflict")
            review.accept(self.repo, pull, drop=left, strategy="merge", when=self.tick(), signer=None)

        self.do(number, job, self.accepted(self.models[number], drop), kill)

    @rule(number=which, names=some, verb=st.sampled_from(["reject", "never", "retry", "later"]), kill=kills)
    def take_off(self, number: int, names: set[str], verb: str, kill: int) -> None:
        if (number := self.pick(number) or 0) == 0:
            return
        rest = {"items": sorted(names), "signer": None}
        until = START + timedelta(days=999)
        said: dict[str, Callable[[PullRequest], object]] = {
            "reject": lambda p: review.reject(self.repo, p, reason="no", when=self.tick(), **rest),  # type: ignore[arg-type]
            "never": lambda p: review.never(self.repo, p, when=self.tick(), **rest),  # type: ignore[arg-type]
            "retry": lambda p: review.retry(self.repo, p, note="again", when=self.tick(), **rest),  # type: ignore[arg-type]
            "later": lambda p: review.later(self.repo, p, until=until, when=self.tick(), **rest),  # type: ignore[arg-type]
        }
        self.do(number, said[verb], self.off(self.models[number], names), kill)

    @rule(number=which, kill=kills)
    def reject_all(self, number: int, kill: int) -> None:
        if (number := self.pick(number, OPEN) or 0) == 0:
            return
        job: Callable[[PullRequest], object] = lambda pull: review.reject(  # noqa: E731 - as the others are
            self.repo, pull, items=(), reason="none of it", when=self.tick(), signer=None
        )
        self.do(number, job, self.off(self.models[number], self.models[number].now.live), kill)

    @rule(number=which, kill=kills)
    def put_off(self, number: int, kill: int) -> None:
        if (number := self.pick(number, OPEN) or 0) == 0:
            return
        model, until = self.models[number], START + timedelta(days=999)
        after = self.grown(model, replace(model.now, asleep=True))
        job: Callable[[PullRequest], object] = lambda pull: review.later(  # noqa: E731
            self.repo, pull, items=(), until=until, when=self.tick(), signer=None
        )
        self.do(number, job, Outcome([after]), kill)

    @rule(number=which, kill=kills)
    def refresh(self, number: int, kill: int) -> None:
        if (number := self.pick(number) or 0) == 0:
            return
        job: Callable[[PullRequest], object] = lambda pull: refresh.refresh(  # noqa: E731
            self.repo, pull, self.checking, self.tick(), None
        )
        self.do(number, job, self.refreshed(self.models[number]), kill)

    @rule(number=which, kill=kills)
    def undo(self, number: int, kill: int) -> None:
        if (number := self.pick(number) or 0) == 0:
            return
        job: Callable[[PullRequest], object] = lambda pull: review.undo(  # noqa: E731
            self.repo, pull, when=self.tick(), signer=None
        )
        self.do(number, job, self.undone(number, self.models[number]), kill)

    @rule(name=st.sampled_from([*FILES, "other.md", "banned"]))
    def commit(self, name: str) -> None:
        """A person goes on on main."""
        self.count += 1
        text = f"{name} by a person {self.count}\n"
        if name == "banned":
            self.banned ^= {FILES[self.count % len(FILES)]}
            text = "".join(f"{n}\n" for n in sorted(self.banned)) + f"# {self.count}\n"
            text = text.replace("# ", "nothing-")
        (self.root / name).write_text(text)
        git("add", name, cwd=self.root)
        git("commit", "-q", "-m", f"{name} by hand", cwd=self.root)
        self.main = self.repo.head().commit
        if name in FILES:
            self.texts[name] = text

    @rule(number=which)
    def human_commit(self, number: int) -> None:
        """A person commits to a review branch."""
        if (number := self.pick(number, OPEN) or 0) == 0 or self.models[number].whose != "ours":
            return
        branch, tip = f"refs/heads/{self.load(number).branch}", self.load(number).tip
        made = git("commit-tree", "-p", tip, "-m", "mine", f"{tip}^{{tree}}", cwd=self.root).strip()
        git("update-ref", branch, made, cwd=self.root)
        self.models[number] = replace(self.models[number], whose="theirs")

    @rule(number=which)
    def delete_branch(self, number: int) -> None:
        if (number := self.pick(number, OPEN) or 0) == 0 or self.models[number].whose == "deleted":
            return
        git("branch", "-q", "-D", self.load(number).branch, cwd=self.root)
        self.models[number] = replace(self.models[number], whose="deleted")

    @precondition(lambda self: any(model.whose != "ours" for model in self.models.values()))
    @rule()
    def give_back(self) -> None:
        """The branches as our messages say that they are brought back."""
        for number, model in self.models.items():
            if model.whose != "ours" and model.now.state is OPEN:
                git("branch", "-f", self.load(number).branch, self.load(number).tip, cwd=self.root)
                self.models[number] = replace(model, whose="ours")

    @rule()
    def gc(self) -> None:
        git("gc", "-q", "--prune=now", cwd=self.root)

    # --- invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def every_pr_is_what_the_model_says(self) -> None:
        branches, refs = {}, self.repo.refs(prs.PRS)
        pulls = prs.load_all(self.repo)
        assert [pull.id for pull in pulls] == sorted(self.models)
        for pull in pulls:
            model = self.models[pull.id]
            assert self.fault(pull, model) is None
            at = self.repo.ref(f"refs/heads/{pull.branch}")
            if model.whose == "theirs":
                assert at not in (None, pull.tip)
            else:
                assert at == (pull.tip if pull.state is OPEN and model.whose == "ours" else None)
            branches[pull.branch] = at
            for number in range(1, pull.revision + 1):
                assert f"{prs.PRS}{pull.id}/r{number}" in refs
            if pull.state is OPEN:
                for item in pull.live:
                    assert (self.repo.read_path(pull.tip, item.target) or b"").decode() == model.new[item.target]
        assert len(refs) == sum(1 + pull.revision for pull in pulls)
        there = {name.removeprefix("refs/heads/"): oid for name, oid in self.repo.refs(prs.BRANCHES).items()}
        assert there == {name: oid for name, oid in branches.items() if oid is not None}

    @invariant()
    def the_user_s_own_is_as_it_was_left(self) -> None:
        assert self.repo.head().commit == self.main
        assert {name: (self.root / name).read_text() for name in FILES} == self.texts
        assert git("status", "--porcelain", cwd=self.root) == "?? mine.txt\n"
        assert git("symbolic-ref", "HEAD", cwd=self.root) == "refs/heads/main\n"
        assert (self.root / ".git/config").read_bytes() == self.config

    @invariant()
    def nothing_is_accepted_twice(self) -> None:
        merged = git("log", "--format=%(trailers:key=Pantheon-Run,valueonly,separator=)", "main", cwd=self.root).split()
        done = [m.runs[n] for m in self.models.values() if m.now.state is ACCEPTED for n in m.now.live]
        assert sorted(merged) == sorted(done)

    def teardown(self) -> None:
        faults.arm(None)
        assert git("fsck", "--strict", "--no-dangling", cwd=self.root) == ""
        with suppress(OSError):
            shutil.rmtree(self.root)


def test_prs_are_what_the_model_says_whatever_happens(tmp_path: Path) -> None:
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate) if EXAMPLES < 50 else tuple(Phase),
        deadline=None,
        print_blob=True,
    )

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(tmp_path / "repo")

    run_state_machine_as_test(Here, settings=chosen)
