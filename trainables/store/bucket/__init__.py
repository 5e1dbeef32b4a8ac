"""An output folder in a bucket of an object store: S3, Google Cloud Storage or Azure.

Every node works in a folder on its own disk, the work folder, whose path names the bucket (`location`). The bucket has what
must outlive a node or reach another one:

| what | where in the bucket | file |
|---|---|---|
| finished stages | `stages/<name>/manifest.json`, put create-only, and files under the prefix it names | `stages`, `cache` |
| who produces a stage, or drives the study | `claims/`, leases that their holders renew | `leases` |
| checkpoints | `checkpoints/<name>/attempt-<token>/`, a prefix for each producer of a stage | `attempts` |
| failures, limits on micro-batches | under the names that they have in a folder | `folder` |
| everything else that the driver writes | `journal/`, numbered segments that are put create-only | `segments` |

`client` is the interface to the object store, which nothing else talks to.
"""
