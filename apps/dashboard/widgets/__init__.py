"""What several pages show: addresses, choices, tables, exports, verdicts."""
