"""The probe that must fail everywhere, and that would notice if it did not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pantheon import egress
from pantheon.egress import Attempt, EgressProof


def test_every_way_out_of_a_tools_sandbox_is_closed() -> None:
    proof = egress.probe_egress({"GITHUB_TOKEN": "x", "PATH": "/bin", "SSH_AUTH_SOCK": "y", "KEYBOARD": "de"})
    assert proof.closed, proof.ways
    assert proof.interfaces == ("lo",)
    kinds = {"tcp", "tcp6", "udp", "udp6", "dns", "raw", "packet", "vsock", "abstract", "path", "metadata"}
    assert {one.kind for one in proof.attempts} == kinds
    assert {one.place for one in proof.attempts} == {"tool"}
    assert proof.stripped == ("GITHUB_TOKEN", "SSH_AUTH_SOCK")


def test_the_host_reaches_what_the_night_must_not() -> None:
    """The controls: without them, a listener that does not listen would look like a wall."""
    with egress.listening(os.environ) as targets:
        controls, _ = egress.attempts(targets, "host")
    assert len(controls) >= 4
    assert [one for one in controls if one.error] == []


def test_the_probe_notices_an_open_network() -> None:
    """The same probe in the host's own namespaces, which the loopback listeners are open to."""
    with egress.listening(os.environ) as targets:
        controls, _ = egress.attempts(targets, "host")
        here, links = egress.attempts(targets.model_copy(update={"resolvers": ()}), "host")
    proof = EgressProof(attempts=here, interfaces=links, controls=controls, closed=True)
    assert {"tcp", "udp", "abstract", "path"} <= {one.kind for one in proof.attempts if not one.error}
    assert any("127.0.0.1" in way for way in proof.ways)


def test_the_hosts_own_sockets_are_among_the_targets(tmp_path: Path) -> None:
    name = f"pantheon-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as agent:
        abstract.bind(f"\0{name}")
        abstract.listen(1)
        agent.bind(str(tmp_path / "agent.sock"))
        agent.listen(1)
        proof = egress.probe_egress({"SSH_AUTH_SOCK": str(tmp_path / "agent.sock")})
    assert proof.closed, proof.ways
    tried = {one.target: one.error for one in proof.attempts}
    assert tried[f"@{name}"] == "ECONNREFUSED"
    assert tried[str(tmp_path / "agent.sock")] == "ENOENT"


@pytest.mark.parametrize(
    ("attempt", "controls"),
    [
        (Attempt(kind="tcp", target="x", error=""), (Attempt(kind="tcp", target="y", error=""),)),
        (Attempt(kind="tcp", target="x", error="TimeoutError"), (Attempt(kind="tcp", target="y", error=""),)),
        (Attempt(kind="path", target="x", error="ECONNREFUSED"), (Attempt(kind="tcp", target="y", error=""),)),
        (Attempt(kind="tcp", target="x", error="ENETUNREACH"), (Attempt(kind="tcp", target="y", error="EPERM"),)),
    ],
    ids=["reached", "a time-out proves nothing", "a visible socket", "a control that failed"],
)
def test_what_is_no_proof_is_said(attempt: Attempt, controls: tuple[Attempt, ...]) -> None:
    proof = EgressProof(attempts=(attempt,), interfaces=("lo",), controls=controls, closed=False)
    assert len(proof.ways) == 1


def test_another_interface_is_a_way_out() -> None:
    assert EgressProof(attempts=(), interfaces=("lo", "eth0"), closed=False).ways == ("interface eth0",)
