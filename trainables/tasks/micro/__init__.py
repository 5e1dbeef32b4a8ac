"""MicroXTREME: a small counterpart of XTREME, generated from Unicode CLDR: no download, minutes on two cores."""
