"""The command line: one thin file per command. Nothing imports this package."""
