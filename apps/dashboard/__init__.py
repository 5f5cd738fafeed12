"""The dashboard. Streamlit is used here and nowhere else."""
