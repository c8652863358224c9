"""The wire: one file per resource."""
