"""Reports: what a run prints, and what its predictions say, as findings, as Markdown and as a page."""
