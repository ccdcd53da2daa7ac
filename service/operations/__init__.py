"""What operators do and watch: migrate, check, delete, health."""
