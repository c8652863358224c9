"""One file per step; the newest is the schema in `app.tables`."""
