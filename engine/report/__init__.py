"""What a run says: takeaways, tables, words and exports."""
