"""What the cells of a study say together: what was chosen, what differs, and the page that shows it."""
