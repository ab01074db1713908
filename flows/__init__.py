"""The pipeline as a Prefect flow, its configuration and the command line."""
