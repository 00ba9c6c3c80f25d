"""Attacks on edits: each a plug-in, `probe(base, edit, concept, settings, workspace) -> Trials`, and its manifest."""
