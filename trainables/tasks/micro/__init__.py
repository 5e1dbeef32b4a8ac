"""MicroXTREME: a small counterpart of XTREME, generated from Unicode CLDR. No download, minutes on two cores."""
