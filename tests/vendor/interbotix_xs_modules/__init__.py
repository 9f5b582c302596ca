"""Stand-in for the vendor's package: see README.md."""
