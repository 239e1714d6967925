"""The page about a run: what it needs is read here, `icons.report` draws it."""
