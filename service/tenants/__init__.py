"""What tenants hold, and how much of it they may."""
