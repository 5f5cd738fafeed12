"""Pages of the dashboard and what they share. Streamlit is used here and nowhere below."""
