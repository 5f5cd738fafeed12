"""What pages draw, computed without Streamlit and torch, so that pasted code and reports use it too."""
