"""Who made a local PR: whether what a person is about to accept is signed by a key that they trust here.

Owns the question, not the answer: a key is trusted because this clone made it or a person accepted it (keys.py). Looked
at are the operation that put the PR on its stack, by whose signature base and tip are what they are, and every commit
of that stack; `verify` looks at everything.
"""

from __future__ import annotations

import os

from pantheon import attest, children, prs
from pantheon.errors import TrustError
from pantheon.git import Repo
from pantheon.reader import parse_commit
from pantheon.records import PullRequest
from pantheon.reunion import Line, read
from pantheon.signers import NAMESPACE, SignatureFault, Trust, check_ssh


def require(repo: Repo, pull: PullRequest) -> None:
    """Raises TrustError when a PR stands where nobody who is trusted here put it."""
    trust = attest.trust_root(repo.common_dir)
    stack = children.quiet(repo.root, "rev-list", f"{pull.base}..{pull.tip}").stdout.splitlines()
    for oid in (*_put_by(repo, pull), *map(os.fsdecode, stack)):
        if why := _fault(repo, oid, trust):
            hint = f"git pantheon keys accept; to take it all the same: git pantheon accept {pull.id} --unverified"
            raise TrustError(f"cannot accept PR {pull.id}", oid[:12], f"nobody here vouches for it: {why}", hint)


def _put_by(repo: Repo, pull: PullRequest) -> list[str]:
    """The first operation after which base and tip were what they are: what came later only carried them on."""
    meta, found = prs.meta_of(repo, pull.id), list[str]()
    for info in Line(repo, meta).first if meta else ():
        record = read(repo, info.oid)
        if (record.get("base"), record.get("tip")) != (pull.base, pull.tip):
            break
        found = [info.oid]
    return found


def _fault(repo: Repo, oid: str, trust: Trust) -> str:
    """Why the signature of a commit does not count here; "" when it does."""
    try:
        found = parse_commit(oid, children.quiet(repo.root, "cat-file", "commit", oid).stdout)
        if not found.signature:
            return "it is not signed"
        check_ssh(found.signature, found.payload, NAMESPACE, found.when, trust)
    except SignatureFault as fault:
        return fault.why
    except ValueError as error:
        return str(error)
    return ""
