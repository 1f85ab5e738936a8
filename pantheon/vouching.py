"""Who made a local PR: whether what a person is about to accept is signed by a key that they trust here.

Owns the question, not the answer: a key is trusted because this clone made it or a person accepted it (keys.py). Only
the signatures of the PR's record and of its commits are looked at; `verify` looks at everything.
"""

from __future__ import annotations

from pantheon import attest, children, prs
from pantheon.errors import TrustError
from pantheon.git import Repo
from pantheon.reader import Commit, parse_commit
from pantheon.records import PullRequest
from pantheon.signers import NAMESPACE, SignatureFault, Trust, check_ssh


def require(repo: Repo, pull: PullRequest) -> None:
    """Raises TrustError when a commit of a PR or its record bears no signature that counts here."""
    trust = attest.trust_root(repo.common_dir)
    for oid in (prs.meta_of(repo, pull.id), *(item.commit for item in pull.items if not item.dropped)):
        if oid is not None and (why := _fault(repo, oid, trust)):
            hint = f"git pantheon keys accept; to take it all the same: git pantheon accept {pull.id} --unverified"
            raise TrustError(f"cannot accept PR {pull.id}", oid[:12], f"nobody here vouches for it: {why}", hint)


def _fault(repo: Repo, oid: str, trust: Trust) -> str:
    """Why the signature of a commit does not count here; "" when it does."""
    try:
        found: Commit = parse_commit(oid, children.quiet(repo.root, "cat-file", "commit", oid).stdout)
        if not found.signature:
            return "it is not signed"
        check_ssh(found.signature, found.payload, NAMESPACE, found.when, trust)
    except SignatureFault as fault:
        return fault.why
    except ValueError as error:
        return str(error)
    return ""
