"""A watcher that posts what it sees to a webhook."""
