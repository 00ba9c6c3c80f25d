"""MACE on the emoji world in one process, for sweeps and studies: what the workflow does, without its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

import harness  # noqa: F401 (finds lethe)
from emoji_world.quality import embed
from lethe.bases.pipeline import load_pipeline, text_encoders, use_scheduler
from lethe.bases.sampling import sample_rows
from lethe.bases.text import encode_prompts
from lethe.bases.unet import cross_attention_projections, set_projections
from lethe.config.resolve import mask_settings
from lethe.edits.low_rank import LowRank
from lethe.erasure.masks import concept_masks
from lethe.erasure.moments import ConceptMoments, concept_moments, second_moment
from lethe.files.tables import read_texts
from lethe.inputs.concepts import Concept
from lethe.inputs.suites import phrases
from lethe.inputs.templates import fill, read_templates
from lethe.measures.clip import load_judge, text_embeddings
from lethe.methods.mace.join import transformed
from lethe.methods.mace.training import Examples, LoraSettings, concept_examples, train_lora
from lethe.tables.protocols import accuracy, h_o

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Training:
    """What a concept's LoRA is trained on, and its moments."""

    moments: ConceptMoments
    examples: Examples


class EmojiErasure:
    """The emoji pipeline and its judge, kept loaded while edits come and go, with the settings of a configuration."""

    def __init__(self, config_path: Path = Path("config/config.yaml")) -> None:
        config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
        self.config, evaluation = config, config["evaluations"]["objects"]
        self.pipeline = load_pipeline(config["bases"]["emoji"]["model"], None, device=CPU, precision="float32")
        self.judge = load_judge(**evaluation["clip"], device=CPU)
        self.original = {n: m.weight.data.clone() for n, m in cross_attention_projections(self.pipeline.unet).items()}
        self.alphas = self.pipeline.scheduler.alphas_cumprod
        self.text = text_encoders(self.pipeline)
        self.templates = read_templates(Path(config["templates"]["object"]))[: config["mace"]["templates_used"]]
        self.lora = LoraSettings(**config["mace"]["lora"], seed=config["seed"])
        prior = config["priors"][config["mace"]["prior"]]
        self.prior = second_moment(encode_prompts(self.text, read_texts(Path(prior["file"]), prior["column"]))).matrix
        self.classes = [name for _, name in phrases(**evaluation["classes"])]
        self.prompt = evaluation["class_prompt"]
        self.class_texts = text_embeddings(self.judge, [fill(self.prompt, name) for name in self.classes])

    def training(self, concepts: Sequence[Concept]) -> list[Training]:
        """Sample, segment and encode what the LoRAs of `concepts` are trained on."""
        return [self._training(concept) for concept in concepts]

    def train(self, inputs: Training, transform: Tensor | None, **changed: object) -> dict[str, LowRank]:
        """A LoRA trained on the base as `transform` refines it (as it is if None), with settings changed by name."""
        weights = self.original if transform is None else transformed(self.original, transform)
        set_projections(self.pipeline.unet, weights)
        state, _ = train_lora(self.pipeline.unet, self.alphas, inputs.examples, replace(self.lora, **changed))
        names = sorted({name.split(".lora")[0] for name in state})
        return {n: LowRank(state[f"{n}.lora_A.weight"], state[f"{n}.lora_B.weight"]) for n in names}

    def scores(
        self, weights: dict[str, Tensor], concepts: Sequence[Concept], *, seeds: range, kept_seeds: range
    ) -> dict[str, float]:
        """Acc_e, Acc_g, Acc_s and H_o in percent of an edit's `weights`, with their n."""
        erased = {concept.name: concept for concept in concepts}
        rows = [("erased", name, name, seed) for name in erased for seed in seeds]
        rows += [("generality", c.name, word, seed) for c in concepts for word in c.synonyms for seed in seeds]
        rows += [("kept", name, name, seed) for name in self.classes if name not in erased for seed in kept_seeds]
        table = pd.DataFrame(rows, columns=["role", "type", "word", "evaluation_seed"])
        table["prompt"] = [fill(self.prompt, word) for word in table["word"]]
        set_projections(self.pipeline.unet, weights)
        images = embed(self.judge, np.stack(self._sample(table, self.config["sampling"])))
        expected = np.array([self.classes.index(kind) for kind in table["type"]])
        part = {
            role: accuracy(images[table["role"] == role], self.class_texts, expected[table["role"] == role])
            for role in ("erased", "generality", "kept")
        }
        found = {"acc_e": part["erased"], "acc_g": part["generality"], "acc_s": part["kept"]}
        found["h_o"] = h_o(part["erased"], part["kept"], part["generality"])
        counts = table["role"].value_counts()
        return {name: round(100 * value, 2) for name, value in found.items()} | {
            f"n_{name}": int(counts[role]) for name, role in zip(found, part, strict=False)
        }

    def _training(self, concept: Concept) -> Training:
        images, where = self.config["images"], mask_settings(self.config["masks"], concept.kind)
        seeds = range(self.config["seed"], self.config["seed"] + images["count"])
        rows = pd.DataFrame({"prompt": fill(images["prompts"][concept.kind], concept.name), "evaluation_seed": seeds})
        set_projections(self.pipeline.unet, self.original)
        sampled = self._sample(rows, images)
        masks, _ = concept_masks(sampled, concept.name, where, device=CPU)
        return Training(
            concept_moments(self.text, concept.name, concept.anchor, self.templates),
            concept_examples(self.pipeline, concept.name, self.templates, sampled, masks, self.lora),
        )

    def _sample(self, rows: pd.DataFrame, settings: dict) -> list[np.ndarray]:
        own = self.pipeline.scheduler
        use_scheduler(self.pipeline, settings["scheduler"])
        try:
            return sample_rows(self.pipeline, rows, **{key: settings[key] for key in ("steps", "guidance", "batch")})
        finally:
            self.pipeline.scheduler = own
