"""Load and queries: which queries are served, in what order and batches, and what is timed.

LoadGen's scenarios (SingleStream, Server, Offline), what precedes them (drawing queries, warming up, choosing a batch size) and
the statistics of their results.
"""
