"""nbconvert's settings for the report: static forms instead of widgets, and nothing from the network."""

c = get_config()  # noqa: F821 (traitlets puts it there)
c.NbConvertBase.display_data_priority = ["text/html", "text/markdown", "image/svg+xml", "image/png", "text/plain"]
c.HTMLExporter.exclude_input = False
c.HTMLExporter.mathjax_url = ""
c.HTMLExporter.require_js_url = ""
c.HTMLExporter.jquery_url = ""
