"""What a report says of predictions, by task: typed sections, which a page or a text then shows."""
