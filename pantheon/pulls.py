"""Local PRs, what people said of them, and what was taken away of old ones, as records. Ring 0."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pantheon.forms import SCHEMA_VERSION, Record


class PullState(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"


class PullItem(Record):
    """One item in a local PR. `dropped` items are no longer on the branch."""

    item: str
    run: str
    target: str
    commit: str
    summary: str = ""
    dropped: bool = False
    verdict: Literal["", "dropped", "rejected", "retry", "never", "later"] = ""  # why it is off; "": nothing was said
    reason: str = ""
    said_at: datetime | None = None
    patch: str = ""  # once something was said: the change's name, as `git patch-id --stable` gives it
    until: datetime | None = None  # of one put off: when it is offered again


class Trouble(Record):
    """Why an item does not go with what the user's branch is now. `run` is that of the item; "" of a version of an
    agent."""

    run: str
    target: str
    why: str
    paths: tuple[str, ...] = ()  # that both sides changed


class Pushed(Record):
    """That a review branch was pushed by a person's word."""

    remote: str
    commit: str
    when: datetime


class PullRequest(Record):
    """A local PR: a review branch plus this record, stored in `refs/pantheon/prs/<id>/meta`."""

    schema_version: int = SCHEMA_VERSION
    id: int
    task: str
    title: str
    night: str
    branch: str
    onto: str  # the user's branch
    base: str
    tip: str
    state: PullState = PullState.OPEN
    revision: int = 1
    created_at: datetime
    items: tuple[PullItem, ...]
    text: str = ""  # what a person should read first, where no item says it
    reason: str = ""
    landed_on: str = ""  # of an accepted one: where the user's branch was before, and the commit that it was moved to
    landed: str = ""
    troubles: tuple[Trouble, ...] = ()  # what a refresh onto `tried` met: while there is any, the PR is in conflict
    tried: str = ""
    later: datetime | None = None  # put off: until then it needs nobody
    pushed: tuple[Pushed, ...] = ()

    @property
    def live(self) -> tuple[PullItem, ...]:
        """The items still on the branch; the commit that sets the task's status is no item."""
        return tuple(item for item in self.items if item.run and not item.dropped)

    @property
    def promotes(self) -> bool:
        """Whether it puts another version of an agent in force: it has no items, and is taken or refused as a whole."""
        return bool(self.items) and not any(item.run for item in self.items)

    @property
    def word(self) -> str:
        """Its state as people read it."""
        return "conflict" if self.state is PullState.OPEN and self.troubles else str(self.state)

    def asleep(self, now: datetime) -> bool:
        """Whether it is put off at this time."""
        return self.state is PullState.OPEN and self.later is not None and now < self.later


class Look(Record):
    """How a PR stands, seen beside the user's branch and its review branch: a word, what it means, the next command."""

    word: str
    said: str = ""
    hint: str = ""


class HumanDecision(Record):
    """One line of `refs/notes/pantheon/decisions`: what a person said of one item's commit. `step`: its place in the
    record of the PR; of one item the last word counts, and after `undone` it is as if nothing had been said."""

    schema_version: int = SCHEMA_VERSION
    pr: int
    item: str
    run: str
    verdict: Literal["accepted", "rejected", "dropped", "retry", "never", "later", "undone"]
    reason: str = ""
    who: str
    when: datetime
    step: int = 0


class Retired(Record):
    """A closed PR that left the ref namespace: the tips that the archive keeps in its place, by the revisions' names
    (`r1`)."""

    schema_version: int = SCHEMA_VERSION
    pr: int
    meta: str
    revisions: dict[str, str]


class Collected(Record):
    """One ref that was taken away: what it held, why, and the commits whose notes of artifacts went with it."""

    schema_version: int = SCHEMA_VERSION
    ref: str
    oid: str
    why: str
    when: datetime
    homes: tuple[str, ...] = ()
