"""MACE (arXiv 2403.06135): a LoRA per concept, and the join that refines and fuses."""
