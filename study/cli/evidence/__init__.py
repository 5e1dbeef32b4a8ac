"""Commands about bundles of evidence, one file each."""
