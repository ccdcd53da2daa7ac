"""What model registries tell us, and the audits that come of it."""
