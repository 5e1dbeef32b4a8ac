"""Commands about the results of a study, one file each."""
