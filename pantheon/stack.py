"""The stacks of accepted items, which become local PRs: a merge queue of trees.

Each accepted item goes on the stack of its task by a three-way merge; a conflict parks it. When the night is over each
stack is checked once more as a whole, what breaks it is found by bisection and dropped, and what is left becomes a PR.
Nothing of a flow whose gate is halted is offered. Writes runs again where their outcome changes; decides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from pantheon import artifacts, plan, prs, quality, redact, report, tasks
from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.item import Shop, Trip, confirmed, gating_checks, kept_paths
from pantheon.records import Item, Night, Outcome, PullItem, PullRequest, Run, Task
from pantheon.review import patch_id, put, refused
from pantheon.survey import FILE


@dataclass
class Stack:
    """The accepted items of one PR in the making."""

    tip: str
    runs: list[Run] = field(default_factory=list)


@dataclass
class Stacks:
    """All stacks of a night. `runs` is the night's own list, in which a run is replaced when its outcome changes;
    `attested` signs for a run that was stored again."""

    repo: Repo
    night: Night
    shop: Shop
    items: Sequence[Item]
    tasks: Mapping[str, Task]
    notes: Sequence[str]
    runs: list[Run]
    signer: Signer
    now: Callable[[], datetime]
    attested: Callable[[Run], None]
    by_task: dict[str, list[Stack]] = field(default_factory=dict)

    def push(self, run: Run, trip: Trip) -> Run:
        """An accepted run on its task's stack: the run with its commit, or parked where it conflicts."""
        assert trip.tree is not None
        tip = self._tip(run.item.task)
        message = redact.scrub_text(
            report.commit_message(run, trip.target, trip.task.uuid, self.shop.config.flows[run.item.flow].subject)
        )
        try:
            commit = put(self.repo, self.night.base, tip, trip.tree, message, self.now(), self.signer)
        except RepositoryError as error:
            return run.model_copy(update={"outcome": Outcome.PARKED, "node": quality.STACK, "reason": str(error)})
        if why := self._rejected(run, commit):
            return run.model_copy(update={"outcome": Outcome.PARKED, "node": quality.STACK, "reason": why})
        run = run.model_copy(update={"result": commit})
        self._stacked(run)
        return run

    def take_back(self, run: Run) -> None:
        """Take a run off its stack again that was just put there."""
        for stack in self.by_task.get(run.item.task, []):
            if stack.runs and stack.runs[-1].id == run.id:
                stack.runs.pop()
                stack.tip = (stack.runs[-1].result if stack.runs else None) or self.night.base

    def restore(self) -> None:
        """The stacks of an interrupted part again: each accepted commit goes on the stack that ends in its parent."""
        waiting = [run for run in self.runs if run.outcome is Outcome.ACCEPTED]
        while waiting:
            tips = {stack.tip for stacks in self.by_task.values() for stack in stacks} | {self.night.base}
            parents = {run.id: self.repo.commit_info(run.result or "").parents[0] for run in waiting}
            ready = [run for run in waiting if parents[run.id] in tips]
            if ready:
                self._stacked(ready[0])
                waiting.remove(ready[0])
            else:  # a kill came while a stack was built anew: what is left of it goes on top of the others
                self._again(waiting.pop(0))

    def _again(self, run: Run) -> None:
        """An accepted run whose commit builds on one that is no longer on a stack, on a stack as in `push`."""
        info = self.repo.commit_info(run.result or "")
        try:
            commit = put(
                self.repo, info.parents[0], self._tip(run.item.task), info.tree, info.message, self.now(), self.signer
            )
        except RepositoryError as error:
            self._park(run, quality.STACK, f"builds on a dropped item: {error}")
            return
        artifacts.copy_notes(self.repo, {info.oid: commit}, self.now(), self.signer)
        moved = run.model_copy(update={"result": commit})
        self._replace(moved)
        self._stacked(moved)

    def _tip(self, task: str) -> str:
        """Where the next item of a task goes."""
        limit = self.shop.config.settings.night.max_items_per_pr
        return next((one.tip for one in self.by_task.get(task, ()) if len(one.runs) < limit), self.night.base)

    @cached_property
    def _refused(self) -> dict[tuple[str, str, str], PullItem]:
        """The changes that people rejected, as they stand when the first item of this part of the night is stacked."""
        return refused(prs.load_all(self.repo))

    def _rejected(self, run: Run, commit: str) -> str:
        """Why a change is not offered: a person rejected the same one; "" where nobody did."""
        if not any((task, target) == (run.item.task, run.item.target) for task, target, _ in self._refused):
            return ""
        said = self._refused.get((run.item.task, run.item.target, patch_id(self.repo, commit)))
        if said is None:
            return ""
        day = f" on {said.said_at:%Y-%m-%d}" if said.said_at else ""
        return f"you rejected this change{day}: {said.reason or 'no reason was given'}"

    def _stacked(self, run: Run) -> None:
        """Note an accepted run on the stack its commit builds on."""
        assert run.result is not None
        stacks = self.by_task.setdefault(run.item.task, [])
        parent = self.repo.commit_info(run.result).parents[0]
        for stack in stacks:
            if stack.tip == parent:
                stack.tip = run.result
                stack.runs.append(run)
                return
        stacks.append(Stack(tip=run.result, runs=[run]))

    # --- stacks become PRs ---

    def halt(self, halted: Mapping[str, str]) -> None:
        """Park what was accepted of each flow whose gate is halted. `halted`: flow -> why, and what would open it."""
        mine = {item.run for pull in self._opened() for item in pull.items}  # of a part that was open before
        for stacks in self.by_task.values():
            for stack in stacks:
                for run in stack.runs:
                    if run.item.flow in halted and run.id not in mine:
                        self._park(run, quality.HALTED, halted[run.item.flow])
                stack.runs = [run for run in stack.runs if run.item.flow not in halted or run.id in mine]

    def _opened(self) -> list[PullRequest]:
        """The PRs of this night that are there already: of a part before an interruption."""
        return [pull for pull in prs.load_all(self.repo) if pull.night == self.night.id]

    async def open_pulls(self) -> list[PullRequest]:
        """Check every stack's tip once more, drop what breaks it, mark finished tasks, open the PRs: each once, though
        the night was killed in the middle of it."""
        prs.mend(self.repo, self.now(), self.signer)
        opened = {item.run: pull for pull in self._opened() for item in pull.items if item.run}
        pulls = []
        for uuid, stacks in self.by_task.items():
            task = self.tasks[uuid]
            for number, stack in enumerate(stacks, 1):
                before = next((opened[run.id] for run in stack.runs if run.id in opened), None)
                if before is not None:
                    pulls.append(before)
                    continue
                await self._prove(stack)
                if not stack.runs:
                    continue
                items = [pull_item(self.repo, run) for run in stack.runs]
                if number == len(stacks) and self._complete(task):
                    items.append(self._mark_done(task, stack))
                pulls.append(
                    prs.open_pull(
                        self.repo,
                        task=task.uuid,
                        slug=task.slug,
                        title=task.title,
                        night=self.night.id,
                        onto=self.night.branch,
                        base=self.night.base,
                        tip=stack.tip,
                        items=items,
                        when=self.now(),
                        signer=self.signer,
                    )
                )
        return pulls

    async def _prove(self, stack: Stack) -> None:
        """Run the checks on the stack's tip; while they fail, find the first item that breaks it and drop it."""
        while stack.runs and not await self._sound(stack, len(stack.runs)):
            low, high = 0, len(stack.runs)  # sound(low) holds, sound(high) does not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if await self._sound(stack, middle) else (low, middle)
            self._drop(stack, high - 1)

    async def _sound(self, stack: Stack, count: int) -> bool:
        base = self.repo.tree_of(self.night.base)
        tree = self.repo.tree_of(stack.runs[count - 1].result or "")
        targets = kept_paths(self.repo.diff(base, tree))
        first = stack.runs[0].item
        graph, task = self.shop.config.flows[first.flow], self.tasks[first.task]
        results, _, _ = await self.shop.room.run(
            tree, f"tip-{tree[:16]}", gating_checks(graph, task), targets, confirmed(task), graph.rules
        )
        return all(result.passed for result in results)

    def _drop(self, stack: Stack, index: int) -> None:
        self._park(stack.runs[index], quality.STACK, "sound alone, but the checks fail on the whole stack with it")
        tip = stack.runs[index - 1].result if index else self.night.base
        kept = stack.runs[:index]
        for run in stack.runs[index + 1 :]:
            info = self.repo.commit_info(run.result or "")
            try:
                tip = put(self.repo, info.parents[0], tip or "", info.tree, info.message, self.now(), self.signer)
            except RepositoryError as error:
                self._park(run, quality.STACK, f"builds on a dropped item: {error}")
                continue
            moved = run.model_copy(update={"result": tip})
            self._replace(moved)  # first: a note on a commit that no run tells of would be nobody's after a kill
            artifacts.copy_notes(self.repo, {run.result or "": tip}, self.now(), self.signer)
            kept.append(moved)
        stack.runs, stack.tip = kept, tip or self.night.base

    def _park(self, run: Run, node: str, why: str) -> None:
        self._replace(run.model_copy(update={"outcome": Outcome.PARKED, "node": node, "reason": why}))

    def _replace(self, run: Run) -> None:
        """A run's record again, with another outcome or result."""
        stored = artifacts.restore_run(self.repo, run, self.now(), self.signer)
        self.attested(stored)
        self.runs[:] = [stored if r.id == run.id else r for r in self.runs]

    def _complete(self, task: Task) -> bool:
        """Whether nothing in the task's scope is left: every item of it was accepted tonight."""
        if task.spec is None or task.spec.standing:
            return False
        outcomes = {run.item.id: run.outcome for run in self.runs}
        mine = [item.id for item in self.items if item.task == task.uuid and item.canary is None]
        left = [note for note in self.notes if any(word in note for word in (plan.PERSON, plan.WAITING, plan.LATER))]
        return not left and all(outcomes.get(i) is Outcome.ACCEPTED for i in mine)

    def _mark_done(self, task: Task, stack: Stack) -> PullItem:
        raw = self.shop.read_base(task.path) or b""
        blob = self.repo.write_blob(tasks.with_status(raw, task.path, "done"))
        tree = self.repo.write_tree(self.repo.tree_of(stack.tip), {task.path: (FILE, blob)})
        message = f"tasks: {task.slug} is done\n\nPantheon-Task: {task.uuid}\n"
        stack.tip = self.repo.commit(tree, [stack.tip], message, self.now(), self.signer)
        return PullItem(item="", run="", target=task.path, commit=stack.tip, summary="status: done")


def pull_item(repo: Repo, run: Run) -> PullItem:
    """A run as an item of a PR; its summary is the commit's subject."""
    assert run.result is not None
    subject = repo.commit_info(run.result).message.splitlines()[0]
    return PullItem(item=run.item.id, run=run.id, target=run.item.target, commit=run.result, summary=subject)
