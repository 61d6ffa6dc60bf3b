"""nbconvert's settings for the report: static forms instead of widgets, and nothing from the network."""

c = get_config()  # noqa: F821 (traitlets puts it there)
c.NbConvertBase.display_data_priority = ["text/html", "text/markdown", "image/svg+xml", "image/png", "text/plain"]
c.ClearMetadataPreprocessor.enabled = True  # the state of widgets would ask the network for their scripts
c.ClearMetadataPreprocessor.preserve_nb_metadata_mask = {("language_info", "name")}
c.ClearMetadataPreprocessor.clear_cell_metadata = False
c.HTMLExporter.mathjax_url = ""
c.HTMLExporter.require_js_url = ""
c.HTMLExporter.jquery_url = ""
