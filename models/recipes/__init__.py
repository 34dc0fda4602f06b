"""The scripts that make the shipped bundles again."""
