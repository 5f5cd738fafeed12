"""Is the gain of a spurious reward memory? Asked of the lab, with a recipe for the published setting."""
