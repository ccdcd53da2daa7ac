"""Who is told of what has happened."""
