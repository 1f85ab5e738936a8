"""The commands about local PRs: pr with its verbs, accept, reject, retry, never, later, undo.

Ring 4: takes plain values, calls the rings below, prints text or JSON, returns an exit code. One decision at a time;
each begins by recording what a killed one left. Nothing is merged that was not checked on what the branch is now,
unless a person says so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pantheon import artifacts, children, config, desk, prs, refresh, remotes, reunion, review, screen, vouching
from pantheon import trust as trusts
from pantheon.errors import ConfigError, InputError, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.places import Places
from pantheon.plan import many, printable
from pantheon.records import PullRequest, PullState, Pushed, seconds
from pantheon.survey import read_config

LATER = "1d"  # how long a PR is put off where nobody says it


# --- looking ---------------------------------------------------------------------------------------------------------


def pr_list(repo: Repo, *, everything: bool, as_json: bool, lasts: Callable[[float], None] = lambda _: None) -> int:
    """`lasts` is told each time from which the list will be another one."""
    desk.mended(repo)
    found = [pull for pull in prs.load_all(repo) if everything or pull.state is PullState.OPEN]
    now = desk.now()
    for moment in prs.wakes(found):
        if moment > now:
            lasts(moment.timestamp())
    looks = refresh.looks(repo, found, now)
    if as_json:
        return screen.print_json([as_shown(pull, looks[pull.id].model_dump()) for pull in found])
    screen.pulls(found, everything, looks)
    return 0


def as_shown(pull: PullRequest, look: dict[str, Any]) -> dict[str, Any]:
    """A PR as `--json` gives it: its record, and how it stands."""
    return {**pull.model_dump(mode="json"), "look": look}


def pr_show(repo: Repo, number: int, *, as_json: bool) -> int:
    desk.mended(repo)
    found = prs.load(repo, number)
    look = refresh.look(repo, found, desk.now())
    revisions = revisions_of(repo, number)
    if as_json:
        rows = [
            {"revision": n, "when": when.isoformat(), "why": why, "base": pull.base, "tip": pull.tip}
            for n, (when, why, pull) in revisions.items()
        ]
        shown = {**as_shown(found, look.model_dump()), "contradictions": reunion.contradictions(repo, number)}
        return screen.print_json({**shown, "revisions": rows})
    screen.pull(found, look, {n: (when, why) for n, (when, why, _) in revisions.items()})
    for line in reunion.contradictions(repo, number):
        print(f"two clones contradict each other: {printable(line)}; what you say now counts")
    return 0


def revisions_of(repo: Repo, number: int) -> dict[int, tuple[datetime, str, PullRequest]]:
    """Revision -> when and why it was made, and the record that it began with."""
    found: dict[int, tuple[datetime, str, PullRequest]] = {}
    before: PullRequest | None = None
    for operation, when, pull in prs.operations(repo, number):
        if pull.revision not in found:
            found[pull.revision] = (when, _why(operation, before, pull), pull)
        before = pull
    return found


def _why(operation: str, before: PullRequest | None, after: PullRequest) -> str:
    """Why a revision was made, in a few words."""
    if operation == prs.REFRESH:
        return f"refresh onto {after.onto} at {after.base[:12]}"
    live = {item.run for item in after.live}
    gone = [item.target for item in before.live if item.run not in live] if before else []
    return f"{operation} {', '.join(gone)}" if gone else operation


def pr_diff(repo: Repo, number: int) -> int:
    """The whole change of a PR, as a patch."""
    found = prs.load(repo, number)
    if sys.stdout.isatty():
        return children.shown(repo.root, "diff", "--no-ext-diff", "--no-textconv", found.base, found.tip)
    sys.stdout.buffer.write(repo.diff(repo.tree_of(found.base), repo.tree_of(found.tip)).patch)
    return 0


def pr_range_diff(repo: Repo, number: int, one: int | None, other: int | None) -> int:
    """What changed from one revision to another, by the user's own `git range-diff`; the last two by default."""
    known = revisions_of(repo, number)
    last = other or max(known)
    first = one or last - 1
    for revision in (first, last):
        if revision not in known:
            why = f"it has {many(len(known), 'revision')}"
            raise RepositoryError(f"no revision {revision} of PR {number}", "", why, f"git pantheon pr show {number}")
    ranges = [f"{known[n][2].base}..{known[n][2].tip}" for n in (first, last)]
    return children.shown(repo.root, "range-diff", *ranges)


def pr_git(repo: Repo, number: int, verb: str) -> int:
    """`git log` over the PR's commits, or `git switch` to its branch: the user's own git."""
    desk.mended(repo)
    found = prs.load(repo, number)
    if verb == "log":
        return children.shown(repo.root, "log", f"--notes={artifacts.SUMMARY}", f"{found.base}..{found.tip}")
    if found.state is not PullState.OPEN:
        raise RepositoryError(
            "cannot check out", f"PR {number}", f"it was {found.state}", f"git switch --detach {found.tip[:12]}"
        )
    return children.shown(repo.root, "switch", found.branch)


# --- deciding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What a person wants of a PR. `items` by id or path: of `accept` those to leave out. `text`: the reason, the note,
    or of `later` until when. `checked`: whether a PR whose base moved is built anew and checked before it is merged.
    `push_to`: of `accept` and `push` the remote that gets the review branch; "" for the usual one, None for none."""

    verb: str
    items: Sequence[str] = ()
    text: str = ""
    checked: bool = True
    push_to: str | None = None
    unverified: bool = False  # of `accept`: whoever signed it


def decide(repo: Repo, number: int, wish: Wish, where: Places | None = None) -> str:
    """One decision on a PR; what came of it. `where`: the user's places, for the checks of a PR whose base moved and
    for the trust in what a promotion changes of `.pantheon/`. Raises PantheonError."""
    verb, items = wish.verb, wish.items
    with review.alone(repo):
        done = desk.settled(repo, where)
        pull = prs.load(repo, number)
        if done is not None and done.id == number and (verb, done.state) in _DONE:
            return f"PR {number} is {done.state}: a command that was killed had done it, and now it is recorded"
        if pull.promotes and (items or verb not in _OF_PROMOTIONS):
            why = "it has no items: it is accepted or rejected as a whole"
            raise InputError(f"cannot {verb} in PR {pull.id}", pull.title, why)
        match verb:
            case "accept":
                return _accept(repo, pull, wish, where)
            case "undo":
                return _undo(repo, pull, where)
            case "refresh":
                return _refreshed(pull, _refresh(repo, pull, where))
            case "push":
                after = push(repo, pull, wish.push_to or None, desk.now(), desk.signer(repo))
                return f"PR {number}: {after.branch} is on {after.pushed[-1].remote}"
            case "later" if not items:
                until, when = until_of(wish.text or LATER, desk.now()), desk.now()
                review.later(repo, pull, items=(), until=until, when=when, signer=desk.signer(repo))
                return f"PR {number} is put off until {_minute(until)}; git pantheon undo {number} brings it back"
            case _:
                return _take_off(repo, pull, wish)


_DONE = (("accept", PullState.ACCEPTED), ("undo", PullState.OPEN))
_OF_PROMOTIONS = ("accept", "undo", "reject", "later", "refresh", "push")


def _take_off(repo: Repo, pull: PullRequest, wish: Wish) -> str:
    when, key, items, text = desk.now(), desk.signer(repo), wish.items, wish.text
    match wish.verb:
        case "reject":
            after = review.reject(repo, pull, items=items, reason=text, when=when, signer=key)
            what = "rejected; the same change is not offered again"
        case "drop":
            after = review.drop(repo, pull, items=items, when=when, signer=key)
            what = "left out"
        case "retry":
            after = review.retry(repo, pull, items=items, note=text, when=when, signer=key)
            what = "tried again next night, with your note"
        case "never":
            after = review.never(repo, pull, items=items, when=when, signer=key)
            what = "not offered again, whatever becomes of the file"
        case "later":
            until = until_of(text or LATER, when)
            after = review.later(repo, pull, items=items, until=until, when=when, signer=key)
            what = f"put off, to be offered again after {_minute(until)}"
        case verb:
            known = "accept, drop, reject, retry, never, later, refresh, push or undo"
            raise InputError("no such decision", verb, known)
    if pull.promotes:
        return f"PR {pull.id} is rejected; the version in force stays"
    left = len(after.live) if after.state is PullState.OPEN else 0
    gone = len(pull.live) - left
    rest = f"{many(left, 'item')} {_are(left)} left to review" if left else "nothing is left in it"
    return f"PR {pull.id}: {many(gone, 'item')} {_are(gone)} {what}; {rest}"


def _accept(repo: Repo, pull: PullRequest, wish: Wish, where: Places | None) -> str:
    """Merge it, once it was checked on what the branch is now. Trust in `.pantheon/` goes on to what a person accepts
    of an agent, since that is nothing but a version and an adapter, which they saw."""
    when, key, before = desk.now(), desk.signer(repo), repo.head().commit
    drop = review.not_left_out(pull, wish.items)
    if not wish.unverified and pull.state is PullState.OPEN:
        vouching.require(repo, pull)
    moved = pull.state is PullState.OPEN and (bool(pull.troubles) or refresh.moved(repo, pull))
    if moved and wish.checked and not review.landing(repo, pull, review.must_stand_on(repo, pull, "accept"), ""):
        if drop:
            review.must_leave_some(pull, drop)
            pull, drop = review.drop(repo, pull, items=drop, when=when, signer=key), []
        pull = _refresh(repo, pull, where)
        if pull.troubles:
            raise RepositoryError(f"cannot accept PR {pull.id}", pull.onto, _conflict(pull), _resolve(pull))
    if wish.push_to is not None:
        pull = push(repo, pull, wish.push_to or None, when, key)
    strategy = read_config(repo, before, repo.entries(before)).settings.accept.strategy
    after = review.accept(repo, pull, drop=drop, strategy=strategy, when=when, signer=key)
    if pull.promotes:
        said = f"PR {pull.id} accepted: it is in force on {pull.onto} from the next night on"
        return said + _trust_carried(repo, pull, before, where)
    return f"PR {pull.id} accepted: {many(len(after.live), 'item')} {_are(len(after.live))} on {pull.onto}"


def _undo(repo: Repo, pull: PullRequest, where: Places | None) -> str:
    before = repo.head().commit
    after = review.undo(repo, pull, when=desk.now(), signer=desk.signer(repo))
    count = "" if pull.promotes else f" with {many(len(after.live), 'item')}"
    back = f"; {pull.onto} is back at {pull.landed_on[:12]}" if pull.state is PullState.ACCEPTED else ""
    said = f"PR {pull.id} is open again{count}{back}"
    return said + _trust_carried(repo, pull, before, where) if pull.promotes else said


def _trust_carried(repo: Repo, pull: PullRequest, before: str, where: Places | None) -> str:
    """Carry trust in `.pantheon/` on from one commit to what is there now; what a person has to know, if anything."""
    after, when = repo.head().commit, desk.now()
    if where is None or after == before:
        return ""
    if trusts.carry(repo, before, after, pull.items[0].target, where.state, when):
        return ""
    return f"; {config.DIRECTORY}/ is another now, and nothing of it runs until you trust it: {trusts.HINT}"


def _refresh(repo: Repo, pull: PullRequest, where: Places | None) -> PullRequest:
    if where is None:
        raise InputError("cannot run the checks", "here", "this window does not know where your trust is kept")
    return refresh.refresh(repo, pull, refresh.checks(repo, where), desk.now(), desk.signer(repo))


def _refreshed(before: PullRequest, after: PullRequest) -> str:
    if after.troubles:
        return f"PR {after.id} is in conflict: {_conflict(after)}\n  next: {_resolve(after)}"
    if after.revision == before.revision:
        return f"PR {after.id} is on what {after.onto} is now"
    checked = "" if after.promotes else " and the checks pass there"
    return f"PR {after.id} is on {after.onto} at {after.base[:12]}{checked}: revision {after.revision}"


def _conflict(pull: PullRequest) -> str:
    first, rest = pull.troubles[0], len(pull.troubles) - 1
    more = f" (and {many(rest, 'item')} more)" if rest else ""
    return f"{printable(first.target)} does not go with {pull.onto} as it is now: {printable(first.why)}{more}"


def _resolve(pull: PullRequest) -> str:
    number, first = pull.id, pull.troubles[0]
    if not first.run:
        return f"git pantheon reject {number} -m WHY (or git pantheon accept {number} --no-check)"
    name = first.run[:12]
    return f"git pantheon retry {number} {name} -m NOTE (or git pantheon reject {number} {name} -m WHY)"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _minute(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def until_of(text: str, now: datetime) -> datetime:
    """`3d`, `12h`, or a date of the calendar here, such as 2026-12-24 or 2026-12-24T18:00; from now on. Raises
    InputError."""
    try:
        found = now + timedelta(seconds=seconds(text)) if _SPAN.fullmatch(text) else datetime.fromisoformat(text)
        found = found.astimezone(UTC)
    except (ValueError, OverflowError, OSError, ConfigError) as error:
        why = "give 3d, 12h, or a date such as 2026-12-24"
        raise InputError("cannot read the date", repr(text[:40]), why) from error
    if found <= now:
        raise InputError("cannot put it off", text, "that time has passed")
    return found.replace(microsecond=0)


_SPAN = re.compile(r"\s*\d+(\.\d+)?\s*[smhd]\s*", re.ASCII)


def push(repo: Repo, pull: PullRequest, remote: str | None, when: datetime, key: Signer) -> PullRequest:
    """Push the review branch of a PR by the user's own git, and record it: where we pushed it before it is replaced,
    and nothing else is. Raises RepositoryError."""
    review.must_be_undecided(pull)
    review.must_be_ours(repo, pull)
    name = remotes.chosen(repo, remote)
    last = next((one.commit for one in reversed(pull.pushed) if one.remote == name), None)
    if last == pull.tip:
        return pull
    branch = f"refs/heads/{pull.branch}"
    refused = remotes.push(repo, name, {branch: (pull.tip, last)}, lambda line: print(f"pantheon: {line}"))
    if refused:
        hint = f"git fetch {name}; git log {name}/{pull.branch}"
        raise RepositoryError(f"cannot push PR {pull.id}", f"{pull.branch} to {name}", refused[0].why, hint)
    told = (*pull.pushed, Pushed(remote=name, commit=pull.tip, when=when))
    return prs.update(repo, pull.model_copy(update={"pushed": told}), prs.PUSH, when, key)


def say(repo: Repo, number: int, wish: Wish, where: Places | None = None) -> int:
    """Decide, and print what came of it."""
    print(decide(repo, number, wish, where))
    return 0


def refresh_all(repo: Repo, numbers: Sequence[int], where: Places) -> int:
    """Refresh these PRs, all that are open and whose base moved where none is named. 1: one of them cannot be used as
    it is."""
    looks = {pull.id: refresh.look(repo, pull, desk.now()) for pull in (() if numbers else prs.load_all(repo))}
    chosen = numbers or [number for number, look in looks.items() if look.word in ("base moved", "conflict")]
    if not chosen:
        print("every open PR is on what its branch is now")
    code = 0
    for number in chosen:
        print(decide(repo, number, Wish("refresh"), where))
        code |= bool(prs.load(repo, number).troubles)
    return code
