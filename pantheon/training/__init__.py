"""Learning from what people accepted: mining, rows, tuning, bench, promotion.

Importing this package imports nothing heavy; `weights` is the one module of it (and of the whole product) that loads
torch, and it is only ever run as a program of its own or imported by the tuning runner.
"""
