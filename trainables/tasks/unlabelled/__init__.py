"""Tasks on text without labels: trained only as part of a mixture, never scored."""
