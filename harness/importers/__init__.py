"""Trial tables from elsewhere; `importer.read` picks the format."""
