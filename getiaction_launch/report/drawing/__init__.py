"""How a page is drawn: charts and bars as SVG, colours, and the templates of the HTML."""
