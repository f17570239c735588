"""Picture files to pixels and back, with their colour and metadata."""
