"""What a release gate makes of a comparison."""
