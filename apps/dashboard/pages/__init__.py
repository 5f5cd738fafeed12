"""Pages of the dashboard: one file, one page."""
