"""What is kept: paths, atomic files, checksums, the ledger, trajectory stores, streams, datasets, the catalog."""
