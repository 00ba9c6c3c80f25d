"""The emoji base, kept loaded while edits come and go, with the settings of a configuration; for sweeps and studies.

Run what imports it from the repository root, where the configuration's paths lead somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

import harness  # noqa: F401 (finds lethe)
from lethe import api
from lethe.bases.base import Base
from lethe.bases.text import encode_prompts
from lethe.config.checks import check_config
from lethe.config.resolve import mask_settings
from lethe.config.schema import method_of
from lethe.edits.low_rank import LowRank
from lethe.edits.weights import WeightEdit
from lethe.erasure.artefacts import draw_images
from lethe.erasure.masks import concept_masks
from lethe.erasure.moments import ConceptMoments, Moment, concept_moments, second_moment
from lethe.inputs.concepts import Concept, read_concepts
from lethe.inputs.priors import prior_texts
from lethe.inputs.suites import class_names
from lethe.inputs.templates import fill, read_templates, template_file
from lethe.inputs.texts import name_occurs
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.methods.mace.join import MaceSettings, erase, preserved
from lethe.methods.mace.loras import concept_lora
from lethe.tables.protocols import clip_score, h_c, h_o

Pictures = tuple[list[np.ndarray], list[np.ndarray]]  # images of a concept, and where it is in them
Settings = Mapping[str, Any]  # of MACE, as in the configuration


class Emoji:
    """The base, and what a task of a configuration makes of it, each piece for itself."""

    def __init__(self, file: str = "config/config.yaml", task: str = "objects") -> None:
        self.config, self.task = check_config(yaml.safe_load(Path(file).read_text(encoding="utf-8")), source=file), task
        chosen = self.config["tasks"][task]
        self.evaluation = self.config["evaluations"][chosen["evaluation"]]
        self.classes = class_names(**self.evaluation["classes"])
        kept = self.config["suites"][self.evaluation["kept"]]
        self.kept = class_names(kept["table"], kept["column"])
        self.pipeline = api.load(self.config["bases"][chosen["base"]]["model"], device="cpu")
        self.base = Base.of_pipeline(self.pipeline)
        known, names = read_concepts(Path(self.config["concepts"])), chosen["concepts"]
        self.concepts = sorted(
            (concept for concept in known if concept.name in names), key=lambda concept: concept.name
        )

    @cached_property
    def settings(self) -> Settings:
        """MACE's."""
        return method_of(self.config, self.task, "mace")

    @cached_property
    def priors(self) -> list[Moment | None]:
        """MACE's prior and domain prior."""
        names = (self.settings[key] for key in ("prior", "domain_prior"))
        return [name and self._moment(prior_texts(self.config["priors"][name])) for name in names]

    def _moment(self, texts: Sequence[str]) -> Moment:
        return second_moment(encode_prompts(self.base.text, texts))

    def templates(self, concept: Concept) -> list[str]:
        """The prompts of training."""
        chosen = self.config["templates"]
        return read_templates(Path(template_file(chosen, concept.kind)))[: chosen["used"]]

    def pictures(self, concept: Concept) -> Pictures:
        """What a LoRA is trained on."""
        images = self.config["images"]
        drawing = images | {"prompt": images["prompts"][concept.kind]}
        _, drawn = draw_images(self.pipeline, concept.name, drawing, seed=self.config["seed"])
        where = mask_settings(self.config["masks"], concept.kind)
        masks, _ = concept_masks(drawn, concept.name, where, device=self.base.device)
        return drawn, list(masks)

    def moments(self, concept: Concept, anchor: str) -> ConceptMoments:
        """The moments of a concept that becomes the anchor; with itself as anchor, refinement leaves all as it is."""
        return concept_moments(self.base.text, concept.name, anchor, self.templates(concept))

    def lora(
        self, concept: Concept, pictures: Pictures, moments: Sequence[ConceptMoments], settings: Settings
    ) -> dict[str, LowRank]:
        """A LoRA trained on the base refined for the concepts whose moments these are."""
        state, _ = concept_lora(
            self.pipeline,
            concept.name,
            {**settings, "seed": self.config["seed"]},
            images=pictures[0],
            masks=pictures[1],
            templates=self.templates(concept),
            moments=moments,
            priors=self.priors,
        )
        names = sorted({name.split(".lora")[0] for name in state})
        return {n: LowRank(state[f"{n}.lora_A.weight"], state[f"{n}.lora_B.weight"]) for n in names}

    def joined(
        self, moments: Sequence[ConceptMoments], loras: Sequence[Mapping[str, LowRank]], settings: Settings
    ) -> WeightEdit:
        """The edit of concepts by MACE's closed form."""
        chosen = MaceSettings(**{name: settings[name] for name in MaceSettings.__dataclass_fields__})
        prior = preserved(*self.priors, weight=settings["preserve_weight"])
        weights = erase(self.base.projections, moments, loras, prior, chosen)
        return WeightEdit({f"{name}.weight": weight for name, weight in weights.items()})

    def scores(
        self, edit: WeightEdit | None, concepts: Sequence[Concept], *, seeds: range, kept_seeds: range
    ) -> dict[str, float]:
        """Acc_e, Acc_g, Acc_s and H_o in percent of an edit (of the base as it is if None), with their n.

        Of concepts without synonyms, H_c in place of Acc_g and H_o.
        """
        erased = [concept.name for concept in concepts]
        rows = [("acc_e", name, name, seed) for name in erased for seed in seeds]
        rows += [("acc_g", c.name, word, seed) for c in concepts for word in c.synonyms for seed in seeds]
        rows += [("acc_s", name, name, seed) for name in self.kept if name not in erased for seed in kept_seeds]
        table = pd.DataFrame(rows, columns=["number", "type", "word", "seed"])
        prompt = self.evaluation["class_prompt"]
        images = self._drawn(edit, [fill(prompt, word) for word in table["word"]], table["seed"])
        table["right"] = np.array(api.recognised(images, self.classes, prompt=prompt, **self._judge)) == table["type"]
        found = table.groupby("number", sort=False)["right"].agg(["mean", "size"])
        shares = found["mean"].to_dict()
        if "acc_g" in shares:
            shares["h_o"] = h_o(shares["acc_e"], shares["acc_s"], shares["acc_g"])
        else:
            shares["h_c"] = h_c(shares["acc_e"], shares["acc_s"])
        counts = {f"n_{name}": int(n) for name, n in found["size"].items()}
        return {name: round(100 * share, 2) for name, share in shares.items()} | counts

    def clip_score(self, edit: WeightEdit | None, captions: int, *, seed: int = 101) -> dict[str, float]:
        """The CLIP score on as many of the captions of the evaluation's `quality`, drawn with seeds from `seed` on.

        Beside it that of those captions which name no concept of the task.
        """
        texts = pd.read_csv(self.config["suites"][self.evaluation["quality"]]["file"])["prompt"]
        texts = list(texts.sample(captions, random_state=seed))
        images = self._drawn(edit, texts, range(seed, seed + captions))
        judge = load_judge(**self._judge, device=self.base.device)
        embedded = image_embeddings(judge, iter(images), texts), text_embeddings(judge, texts)
        named = np.array(name_occurs(texts, [concept.name for concept in self.concepts]))
        unnamed = clip_score(*(part[~named] for part in embedded))
        told = {"clip_score": clip_score(*embedded), "clip_score_unnamed": unnamed}
        return {name: round(score, 2) for name, score in told.items()} | {"n_clip_score": captions}

    @property
    def _judge(self) -> dict[str, Any]:
        return {key: self.config["measures"][self.evaluation["clip"]][key] for key in ("model", "revision")}

    def _drawn(self, edit: WeightEdit | None, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        drawing = {key: self.config["sampling"][key] for key in ("scheduler", "steps", "guidance", "batch")}
        if edit:
            edit.install(self.pipeline)
        try:
            return api.sample(self.pipeline, prompts, seeds, **drawing)
        finally:
            if edit:
                edit.remove(self.pipeline)
