"""Export a run as files: slides, reports, charts, tables. Without Streamlit."""
