"""The commands of learning: mine, train, bench, and what agents show and agents rollback do.

Ring 4: opens the doors, hands them on, prints the result. A training runs by day, never while a night does.
"""

from __future__ import annotations
