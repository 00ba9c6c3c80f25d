"""The forms in which edits leave Lethe (`lethe.edits.export`), by name; without torch, for the command's help."""

FORMS = {
    "diffusers": "the edited pipeline as a folder for diffusers",
    "checkpoint": "a copy of the base's single-file checkpoint with the edited tensors in it",
    "diff": "every difference to the base, for ComfyUI and A1111 (nothing is left out)",
    "kohya": "the nearest LoRA of a rank, with kohya's keys, for ComfyUI, A1111, kohya's scripts and diffusers",
    "peft": "the nearest LoRA of a rank, for diffusers and peft",
}
LORAS = ("kohya", "peft")
CARD = "README.md"
RECORD = "lethe.json"  # what made the edit, beside each
WHOLE = ("diffusers", "checkpoint")  # models, the others are added to one
