"""The tools of the agents: pure functions over notes, and one table of calls (registry.py) over a confined worktree."""
