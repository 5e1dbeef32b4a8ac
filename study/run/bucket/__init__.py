"""A study whose output is in a bucket (`trainables.store.bucket`).

| question | file |
|---|---|
| How does its only driver keep the bucket up to date? | `driving` |
| How does a command read it on any machine? | `reading` |
| How is it followed there while it runs? | `following` |
"""
