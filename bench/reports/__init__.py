"""What the result files say: tables, plots, documents, headers of costs."""
