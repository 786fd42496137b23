"""From score maps to masks: AffinityNet or IRN, a random walk, a background, a dense CRF."""
