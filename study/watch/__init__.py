"""A study on a page while it runs: what the run says of itself, and the report, rebuilt as results come in.

The page is the report, made by what makes the report at the end of a run, from the same store. Whoever watches only reads: the
store is copied without a lock, and the report is built in a process of low priority.

| question | file |
|---|---|
| What does a run say of itself, and where? | `status_file` |
| Did the store change? | `store_files` |
| How is a store read that a run is writing? | `snapshot` |
| What builds the page? | `build` |
| When is the page built again, and what is said of the run? | `live` |
| Who serves the page, and to whom? | `server` |
| How does a run start its watch, and end it? | `child` |
"""
