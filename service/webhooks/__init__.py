"""Where tenants want to be told of what has happened."""
