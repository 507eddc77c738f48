"""What a page is operated with: the choice of a run, charts with their downloads, links."""
