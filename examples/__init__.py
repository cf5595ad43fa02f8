"""Programs to read: each is run as a script, and says what it can do with --help."""
