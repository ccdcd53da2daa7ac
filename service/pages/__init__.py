"""Pages for people: the tenant's audits and series, behind the same keys. Read through the verbs of the API."""
