"""Pictures and text in, feature tables out."""
