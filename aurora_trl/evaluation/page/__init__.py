"""The report as one HTML file that opens offline: its template, its style, its script, and what fills them."""
