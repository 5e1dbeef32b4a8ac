"""How good estimators of transfer are: regret and rank correlation of an order (`regret`), graded over a study (`grades`)."""
