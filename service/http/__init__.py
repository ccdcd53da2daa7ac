"""What every route shares: callers, problems, pages, fields. Below the slices; imports none of them."""
