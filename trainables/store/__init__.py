"""Everything about files that outlive a process: the stage store, manifests, fingerprints, locks and atomic writes."""
