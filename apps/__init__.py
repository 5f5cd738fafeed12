"""Ways in: command line, dashboard, report."""
