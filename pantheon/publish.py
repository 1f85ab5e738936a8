"""What a `git push` may take along: the question that the pre-push hook asks.

The bot's own refs stay on this machine unless a person says otherwise, and no protected branch leaves with work of the
bot that nobody accepted. Decides from git's lines and local records; refuses nothing but that, warns of secrets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import pathspec

from pantheon import artifacts, prs
from pantheon.git import NAMESPACES, Repo
from pantheon.plan import printable
from pantheon.records import PullRequest, PullState, Record

RUN_TRAILER = "Pantheon-Run"
ALLOW = "PANTHEON_PUSH=1"
SCAN_S = 10.0  # how long artifacts that are about to be published are searched


class Update(Record):
    """One line that git gives to the hook. An oid of zeros: the ref is not there; as local: it is to be deleted."""

    local: str
    local_oid: str
    remote: str
    remote_oid: str

    @property
    def deletes(self) -> bool:
        return not self.local_oid.strip("0")

    @property
    def ours(self) -> tuple[str, ...]:
        """The names of ours in it: publishing a private ref under another name publishes it as well."""
        return tuple(dict.fromkeys(name for name in (self.local, self.remote) if name.startswith(NAMESPACES)))


def updates(lines: Iterable[str]) -> list[Update]:
    """Git's lines `local-ref oid remote-ref oid`; what has another form is left out."""
    words = (line.split(" ") for line in lines)
    found = [Update(local=w[0], local_oid=w[1], remote=w[2], remote_oid=w[3]) for w in words if len(w) == 4]
    return [one for one in found if not one.deletes]


def private(pushed: Sequence[Update]) -> list[str]:
    """Why refs of the bot's are not pushed: a line for each."""
    names = dict.fromkeys(name for one in pushed for name in one.ours)
    return [f"not pushed: {printable(name)} is the bot's and stays local" for name in names]


def unaccepted(repo: Repo, pushed: Sequence[Update], remote: str, protected: Sequence[str]) -> list[str]:
    """Why a protected branch is not pushed: a line for each PR whose work is in it without being accepted."""
    spec = pathspec.GitIgnoreSpec.from_lines([f"/{pattern}" for pattern in protected])
    heads = [one for one in pushed if spec.match_file(one.remote.removeprefix("refs/heads/"))]
    heads = [one for one in heads if one.remote.startswith("refs/heads/") and repo.knows(one.local_oid)]
    if not heads:
        return []
    waiting = _waiting(prs.load_all(repo))
    there = f"refs/remotes/{remote}/"
    published = [oid for name, oid in repo.refs(there).items() if spec.match_file(name.removeprefix(there))]
    said: dict[str, None] = {}
    for head in heads if waiting else ():
        known = head.remote_oid.strip("0") and repo.knows(head.remote_oid)
        excluded = [head.remote_oid] if known else published
        held = [pair for key in (RUN_TRAILER, prs.PROMOTES) for pair in repo.trailers(key, head.local_oid, excluded)]
        for commit, names in held:
            for pull in filter(None, map(waiting.get, names)):
                why = "was dropped from" if pull.state is PullState.ACCEPTED else f"nobody accepted ({pull.state}):"
                said[f"not pushed: {printable(head.remote)} holds {commit[:12]}, which {why} PR {pull.id}"] = None
    return list(said)


def _waiting(pulls: Sequence[PullRequest]) -> dict[str, PullRequest]:
    """run -> its PR, of the runs that no person accepted; so too of versions of agents, `name@version`."""
    named = [(pull, item, item.item if pull.promotes else item.run) for pull in pulls for item in pull.items]
    accepted = {name for pull, item, name in named if pull.state is PullState.ACCEPTED and not item.dropped}
    return {name: pull for pull, _, name in named if name and name not in accepted}


def secrets(repo: Repo, pushed: Sequence[Update], clock: Callable[[], float] = time.monotonic) -> list[str]:
    """What looks like a secret in the bot's objects that are about to be published: older versions stored them."""
    until = clock() + SCAN_S
    said: dict[str, None] = {}
    whole = True
    for one in pushed:
        if not one.ours or one.local.startswith("refs/heads/"):
            continue
        if clock() > until:
            whole = False
            break
        finds, complete = artifacts.find_secrets(repo, one.local_oid)
        whole &= complete
        for path, secret in finds:
            said[f"warning: {printable(path)} of {printable(one.local)} holds what looks like {secret.kind}"] = None
    return [*said, *([] if whole else ["warning: not everything was searched for secrets, there was too much of it"])]


def answer(
    repo: Repo, lines: Iterable[str], *, remote: str, protected: Sequence[str], allow: bool
) -> tuple[bool, list[str]]:
    """Whether the push is refused, and what is said."""
    pushed = updates(lines)
    if allow:
        return False, secrets(repo, pushed)
    said = [*private(pushed), *unaccepted(repo, pushed, remote, protected)]
    if not said:
        return False, []
    accept = "to take it: git pantheon accept N; " if any("PR " in line for line in said) else ""
    return True, [*said, f"{accept}to publish it all the same: {ALLOW} git push ..."]
