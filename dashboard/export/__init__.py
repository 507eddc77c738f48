"""A run as files for others: slides, tables. No Streamlit in here."""
