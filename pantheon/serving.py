"""How a night serves agents that have adapters: all on one server, or merged and one after the other. Pure.

On a GPU adapters are served beside each other. On a CPU an adapter that is not merged slows its own answers down by
`SLOW_ADAPTER` and everybody else's by `SLOW_OTHERS` (measured, 2 cores, 135M parameters, float32, 32 in flight: 100
tokens/s without, 67 with adapters enabled, 30 used); merged it costs nothing but a start of the server per phase.
"""

from __future__ import annotations

from collections.abc import Mapping

from pantheon.records import Serving

SLOW_ADAPTER, SLOW_OTHERS = 100 / 30, 100 / 67
START_S = 35.0  # of a server on two cores, until a night has measured it
CALL_S = 0.3  # of the engine's time for a call of a full batch, until a night has measured it


def choose(
    calls: Mapping[str, float], *, cpu: bool, models: int = 1, start_s: float = START_S, call_s: float = CALL_S
) -> Serving:
    """How to serve a queue. `calls`: adapter -> expected model calls, "" for those without one; `models`: how many
    different models are asked, of which one server can only hold one."""
    adapters = [name for name, count in calls.items() if name and count > 0]
    if not adapters and models < 2:
        return Serving(mode="one", why="no agent of this night has an adapter")
    if models > 1:
        return Serving(mode="phases", why=f"{models} models take turns: one server holds one")
    if not cpu:
        return Serving(mode="adapters", why=f"{len(adapters)} adapters on one server, which a GPU serves side by side")
    with_adapter = sum(calls[name] for name in adapters)
    others = calls.get("", 0.0)
    lost_s = call_s * (with_adapter * (SLOW_ADAPTER - 1) + others * (SLOW_OTHERS - 1))
    starts = len(adapters) + (others > 0) - 1
    costs_s = starts * start_s
    if costs_s < lost_s:
        why = f"merged and one after the other: {starts} more starts of about {start_s:.0f} s cost less than about"
        return Serving(mode="phases", why=f"{why} {lost_s:.0f} s that adapters beside each other would cost on a CPU")
    why = f"beside each other: about {lost_s:.0f} s lost to them cost less than {starts} more starts of about"
    return Serving(mode="adapters", why=f"{why} {start_s:.0f} s")
