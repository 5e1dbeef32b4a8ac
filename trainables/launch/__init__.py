"""Launchers: run a job in this process (`inline`), on a Ray Train group (`group`) or as a Ray task (`task`).

`retry` repeats launches that lost a worker or ran out of memory; `process` prepares the process that stages run in.
"""
