"""From files to results: what the commands do."""
