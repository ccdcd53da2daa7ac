"""Links that open one report without a key."""
