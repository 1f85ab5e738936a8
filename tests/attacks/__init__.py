"""The attacks: each test tries to get out, to lie or to stop the night, on the real product."""
