"""The steps of the road (verbs) and, below them, the pure mathematics they call (nouns)."""
