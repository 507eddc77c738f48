"""The findings of a run: takeaways, tables, words and exports."""
