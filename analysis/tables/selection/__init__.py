"""What a choice of trials costs: by English dev, by signals without labels, for all targets together or for each."""
