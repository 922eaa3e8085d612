"""Forms that other libraries read, one a module: each writes one distilled file as a file or a folder."""
