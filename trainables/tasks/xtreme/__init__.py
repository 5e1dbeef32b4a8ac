"""Target tasks of XTREME and XTREME-R."""
