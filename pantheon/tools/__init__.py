"""The tools of the agents: pure functions over notes, and one table of calls (registry.py) over a confined worktree.

Ring 2: no clock, network, git or child process; workspace.py alone touches a disk (check.py reads its two trees).
"""
