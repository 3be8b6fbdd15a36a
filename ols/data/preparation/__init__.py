"""From the official download of a public data set to a table of targets, see `ols.data.sources.table`."""
