"""The store's schema, step by step. `app.store` brings a database up to date when it opens it."""
