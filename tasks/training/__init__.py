"""Training without a framework, its loaders and checkpoints, and the one file that runs it on Ray Train."""
