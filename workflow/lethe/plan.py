"""What each job reads, writes and is told: one declaration per rule. No Snakemake, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lethe.config.checks import ROLES
from lethe.config.planning import Inputs
from lethe.config.resolve import mask_settings
from lethe.inputs.priors import prior_files
from lethe.inputs.suites import shard_count, shard_digests, suite_file
from lethe.inputs.templates import read_templates
from lethe.jobs import PLACES, Folder, Given, Job, Told, step
from lethe.pictures.examples import shown_columns
from lethe.plugins import manifest
from lethe.records.fingerprints import content_hash, fingerprint, sha256_of, text_fingerprint

REFINEMENT = ("scale_convention", "train_preserve_scale", "lamb")
EXAMPLES = dict(seeds=[1, 2], kept=7)  # of a figure that the configuration leaves out and somebody asks for by name
COCO = "results/coco/"


class Plan:
    """The jobs of a configuration.

    `locate(model, revision, variant, key)` is the folder of a model, or None while nobody knows it; `hash_file` the
    SHA-256 of a file.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        inputs: Inputs,
        *,
        locate: Callable[[str, str | None, str | None, str], Path | None],
        hash_file: Callable[[Path], str] = sha256_of,
    ) -> None:
        self.config, self.inputs, self.locate, self.hash_file = config, inputs, locate, hash_file
        self.concepts = {concept.slug: concept for concept in inputs.concepts}
        self.slugs = {concept.name: slug for slug, concept in self.concepts.items()}
        for method in (self.given, self.identified, self.of_base, self.text_of, self.used_templates, self.digests):
            setattr(self, method.__name__, cache(method))

    # What the configuration names

    def given(self, path: str) -> Given:
        """A file or folder of which the whole content counts."""
        where = Path(path)
        if not where.exists():
            return Given(path, path)
        return Given(path, content_hash(where, self.hash_file) if where.is_dir() else self.hash_file(where))

    def identified(self, model: str, revision: str | None, variant: str | None = None, key: str = "") -> dict:
        """What identifies the model at a key of the configuration: where it is, and what its content is."""
        where = self.locate(model, revision, variant, key)
        content = f"{model}@{revision} {variant}"
        if where:
            content = fingerprint(where, variant=variant, hash_of=self.hash_file)
        return dict(model=model, revision=revision, variant=variant, fingerprint=content)

    def of_base(self, base: str) -> dict:
        """What identifies a base: its name, and where and what the pipeline is."""
        return dict(name=base) | self.identified(**self.config["bases"][base], key=f"bases.{base}.model")

    def text_of(self, base: str) -> str:
        """Which text encoders a base has, in 16 hex digits."""
        found = self.of_base(base)
        if where := self.locate(found["model"], found["revision"], found["variant"], f"bases.{base}.model"):
            return text_fingerprint(where, variant=found["variant"], hash_of=self.hash_file)
        return hashlib.sha256(found["fingerprint"].encode()).hexdigest()[:16]

    def text_settings(self, text: str) -> dict:
        """The text encoders that have a fingerprint, where one of the bases has them."""
        base = next(self.of_base(name) for name in self.config["bases"] if self.text_of(name) == text)
        return {key: base[key] for key in PLACES} | dict(fingerprint=text)

    def numeric(self, base: str) -> dict:
        """Settings of a step that computes with a base."""
        return dict(base=self.of_base(base), precision=self.config["precision"])

    def training_images(self, kind: str) -> dict:
        """How to sample images of a kind of concept."""
        images = self.config["images"]
        return {key: value for key, value in images.items() if key != "prompts"} | dict(prompt=images["prompts"][kind])

    def segmentation(self, concept: str) -> dict:
        """How to find a concept, and what the content of the models is that find it."""
        chosen = mask_settings(self.config["masks"], self.concepts[concept].kind)
        at = f"masks.{chosen['segmenter']}"
        parts = {key: part for key, part in chosen.items() if isinstance(part, dict) and "model" in part}
        models = {name: part | self.identified(**part, key=f"{at}.{name}.model") for name, part in parts.items()}
        own = self.identified(chosen["model"], chosen["revision"], key=f"{at}.model") if "model" in chosen else {}
        return chosen | models | own

    def used_templates(self, kind: str) -> Given:
        """The template file of a kind of concept; lines behind those that training uses, and comments, do not count."""
        path = self.config["templates"][kind]
        return Given(path, tuple(read_templates(Path(path))[: self.config["mace"]["templates_used"]]))

    def task_slugs(self, task: str) -> list[str]:
        """Slugs of a task's concepts, sorted, so that their order in the configuration does not matter."""
        return sorted(self.slugs[name] for name in self.config["tasks"][task]["concepts"])

    def task_names(self, task: str) -> list[str]:
        """The concepts in the same order."""
        return [self.concepts[slug].name for slug in self.task_slugs(task)]

    def erased(self, slug: str) -> dict[str, str]:
        """What a method is told of a concept."""
        return {name: getattr(self.concepts[slug], name) for name in ("name", "kind", "anchor")}

    # Bases, concepts, priors

    @step(record="results/{base}/base.json")
    def base(self, base: str) -> Told:
        return Told(dict(base=self.of_base(base)))

    @step(images="results/{base}/concepts/{concept}/images.zip")
    def images(self, base: str, concept: str) -> Told:
        of = self.concepts[concept]
        drawn = dict(concept=of.name, seed=self.config["seed"], images=self.training_images(of.kind))
        return Told(self.numeric(base) | drawn)

    @step("lethe.steps.images", images="results/{base}/concepts/{concept}/anchor_images.zip")
    def anchor_images(self, base: str, concept: str) -> Told:
        of = self.concepts[concept]
        drawn = dict(concept=of.anchor, seed=self.config["seed"], images=self.training_images(of.kind))
        return Told(self.numeric(base) | drawn)

    @step(masks="results/{base}/concepts/{concept}/masks.zip")
    def masks(self, base: str, concept: str) -> Told:
        settings = dict(concept=self.concepts[concept].name, masks=self.segmentation(concept))
        return Told(settings, dict(images=self.images(base, concept)))

    @step(moments="results/{base}/concepts/{concept}/moments.safetensors")
    def moments(self, base: str, concept: str) -> Told:
        of = self.concepts[concept]
        settings = dict(text=self.text_settings(self.text_of(base)), precision=self.config["precision"])
        settings |= dict(concept=of.name, anchor=of.anchor, templates_used=self.config["mace"]["templates_used"])
        return Told(settings, dict(templates=self.used_templates(of.kind)))

    @step(
        train=f"{COCO}captions_train2014.json",
        val=f"{COCO}captions_val2014.json",
        record=f"{COCO}source.json",
    )
    def coco_annotations(self) -> Told:
        return Told(self.config["downloads"]["coco_annotations"])

    @step(prior="results/priors/{text}/{prior}.safetensors")
    def prior(self, text: str, prior: str) -> Told:
        chosen = self.config["priors"][prior]
        settings = dict(text=self.text_settings(text), precision=self.config["precision"])
        settings["columns"] = {key: value for key, value in chosen.items() if not _is_place(key, value)}
        made = {path: self.coco_annotations()[name] for name, path in self.coco_annotations().outputs.items()}
        sources = [made.get(path) or self.given(path) for path in prior_files(chosen)]
        return Told(settings, dict(sources=sources), aside=dict(prior=chosen))

    # MACE

    @property
    def preserves_images(self) -> bool:
        """Whether LoRAs keep how images of the anchor look."""
        return self.config["mace"]["lora"]["preservation_weight"] > 0

    def mace_priors(self, base: str) -> dict[str, Job | None]:
        """What MACE preserves."""
        named = {key: self.config["mace"][key] for key in ("prior", "domain_prior")}
        return {key: name and self.prior(self.text_of(base), name) for key, name in named.items()}

    def lora_settings(self, base: str, concept: str) -> dict:
        mace = self.config["mace"]
        return self.numeric(base) | dict(
            concept=self.concepts[concept].name,
            seed=self.config["seed"],
            templates_used=mace["templates_used"],
            lora=mace["lora"],
            preserve_weight=mace["preserve_weight"],
            refinement={key: mace[key] for key in REFINEMENT},
        )

    def lora_reads(self, base: str, concept: str) -> dict:
        """What every LoRA reads, whatever concepts its base is refined for."""
        return dict(
            images=self.images(base, concept),
            masks=self.masks(base, concept),
            anchor_images=self.anchor_images(base, concept) if self.preserves_images else None,
            templates=self.used_templates(self.concepts[concept].kind),
            **self.mace_priors(base),
        )

    @step(
        lora="results/{base}/concepts/{concept}/lora/pytorch_lora_weights.safetensors",
        curve="results/{base}/concepts/{concept}/lora/loss.csv",
    )
    def lora(self, base: str, concept: str) -> Told:
        reads = self.lora_reads(base, concept) | dict(moments=self.moments(base, concept))
        return Told(self.lora_settings(base, concept), reads)

    @step(
        "lethe.steps.lora",
        lora="results/{base}/edits/{task}/loras/{concept}/pytorch_lora_weights.safetensors",
        curve="results/{base}/edits/{task}/loras/{concept}/loss.csv",
    )
    def task_lora(self, base: str, task: str, concept: str) -> Told:
        reads = self.lora_reads(base, concept) | dict(moments=self.task_moments(base, task))
        return Told(self.lora_settings(base, concept), reads)

    def task_moments(self, base: str, task: str) -> list[Job]:
        return [self.moments(base, slug) for slug in self.task_slugs(task)]

    def task_loras(self, base: str, task: str) -> list[Job]:
        """LoRAs of a task's concepts: shared by all tasks, or trained on the base refined for this one."""
        if self.config["mace"]["lora_base"] == "task":
            return [self.task_lora(base, task, slug) for slug in self.task_slugs(task)]
        return [self.lora(base, slug) for slug in self.task_slugs(task)]

    @step(edit="results/{base}/edits/{task}/{method}.safetensors")
    def edit(self, base: str, task: str, method: str) -> Told:
        chosen = self.config[method]
        keys = (*REFINEMENT, "fuse_preserve_scale", "preserve_weight", "edit_form")
        settings = self.numeric(base) | dict(
            kind=method,
            name=method,
            method={key: chosen[key] for key in keys} | dict(fusion="closed-form"),
            task=task,
            concepts=[self.erased(slug) for slug in self.task_slugs(task)],
        )
        loras = [lora["lora"] for lora in self.task_loras(base, task)]
        reads = dict(moments=self.task_moments(base, task), loras=loras, **self.mace_priors(base))
        return Told(settings, reads, plugins=[manifest("methods", method).module])

    @step(figure="results/{base}/edits/{task}/losses.png")
    def losses(self, base: str, task: str) -> Told:
        curves = [lora["curve"] for lora in self.task_loras(base, task)]
        return Told(dict(concepts=self.task_names(task)), dict(curves=curves))

    @step(sheets=Folder("results/{base}/edits/{task}/masks"))
    def mask_sheets(self, base: str, task: str) -> Told:
        slugs = self.task_slugs(task)
        segmenters = [self.segmentation(slug)["segmenter"] for slug in slugs]
        reads = {name: [getattr(self, name)(base, slug) for slug in slugs] for name in ("images", "masks")}
        return Told(dict(concepts=self.task_names(task), segmenters=segmenters), reads)

    # Samples and measures

    def sampled_edit(self, base: str, edit: str) -> Job | None:
        """The job that makes the edit `task/method`; None for the base as it is."""
        return None if edit == "original" else self.edit(base, *edit.split("/"))

    def digests(self, suite: str) -> list[str]:
        """The digest of the rows of each of a suite's shards."""
        return shard_digests(self.inputs.suites[suite], self.config["sampling"]["shard_size"])

    @step(shard="results/{base}/samples/{edit}/{suite}/{shard}.zip")
    def sample(self, base: str, edit: str, suite: str, shard: str) -> Told:
        """Further rows after a shard leave it as it is."""
        source, number = self.config["suites"][suite], int(shard)
        if "rows" in source:
            size = self.config["sampling"]["shard_size"]
            source = source | dict(rows=min(len(self.inputs.suites[suite]), (number + 1) * size))
        settings = self.numeric(base) | dict(sampling=self.config["sampling"], shard=number)
        settings["digest"] = self.digests(suite)[number]
        reads = dict(source=Given(str(suite_file(source)), None), edit=self.sampled_edit(base, edit))
        return Told(settings, reads, aside=dict(suite=source))

    def judge(self, evaluation: str) -> dict:
        """What identifies the evaluation CLIP."""
        clip = self.config["evaluations"][evaluation]["clip"]
        return dict(clip=self.identified(**clip, key=f"evaluations.{evaluation}.clip.model"))

    @step(measure="results/{base}/measures/{edit}/{suite}/{shard}.{evaluation}-clip.parquet")
    def clip(self, base: str, edit: str, suite: str, shard: str, evaluation: str) -> Told:
        return Told(self.judge(evaluation), dict(shard=self.sample(base, edit, suite, shard)))

    @step("lethe.steps.clip", measure="results/evaluations/{evaluation}/reference-clip.parquet")
    def clip_reference(self, evaluation: str) -> Told:
        images = self.given(self.config["evaluations"][evaluation]["reference_images"])
        return Told(self.judge(evaluation) | dict(real=True), dict(shard=images))

    @step(classes="results/evaluations/{evaluation}/classes-clip.parquet")
    def clip_classes(self, evaluation: str) -> Told:
        chosen = self.config["evaluations"][evaluation]
        table = Given(chosen["classes"]["table"], self.inputs.classes[evaluation])
        settings = self.judge(evaluation) | dict(class_prompt=chosen["class_prompt"])
        return Told(settings, dict(table=table), aside=dict(column=chosen["classes"]["column"]))

    # Tables and pictures

    def edits(self, task: str) -> dict[str, str]:
        """The base as it is, then every method's edit of a task."""
        return {"original": "original"} | {
            method: f"{task}/{method}" for method in self.config["tasks"][task]["methods"]
        }

    def role_suites(self, task: str, roles: tuple[str, ...] = ROLES) -> dict[str, str]:
        """The suite of each role in a task's evaluation that has one."""
        evaluation = self.config["evaluations"][self.config["tasks"][task]["evaluation"]]
        return {role: evaluation[role] for role in roles if evaluation[role] is not None}

    def shards(self, suite: str) -> list[str]:
        """Names of a suite's shards."""
        count = shard_count(len(self.inputs.suites[suite]), self.config["sampling"]["shard_size"])
        return [f"{k:04d}" for k in range(count)]

    def task_shards(self, task: str, roles: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
        """Base, edit, suite and number of every shard of a task, in the order that the steps read them."""
        base = self.config["tasks"][task]["base"]
        return [
            (base, edit, suite, shard)
            for edit in self.edits(task).values()
            for suite in self.role_suites(task, roles).values()
            for shard in self.shards(suite)
        ]

    def shard_counts(self, task: str, roles: tuple[str, ...]) -> dict[str, int]:
        """How many shards the suite of each role has."""
        return {role: len(self.shards(suite)) for role, suite in self.role_suites(task, roles).items()}

    @step(table="results/tables/{task}.csv", record="results/tables/{task}.json")
    def objects_table(self, task: str) -> Told:
        chosen = self.config["tasks"][task]
        evaluation = chosen["evaluation"]
        settings = self.judge(evaluation) | dict(
            concepts=sorted(chosen["concepts"]),
            shards=self.shard_counts(task, ROLES),
            methods=list(self.edits(task)),
            sampling=self.config["sampling"],
        )
        reads = dict(
            measures=[self.clip(*shard, evaluation) for shard in self.task_shards(task, ROLES)],
            classes=self.clip_classes(evaluation),
            reference=self.clip_reference(evaluation),
            base=self.base(chosen["base"]),
        )
        return Told(settings, reads)

    @step(figure="results/figures/{task}.png")
    def examples(self, task: str) -> Told:
        """Where a picture has no room for all that a task erases, it shows the worst, by the table."""
        shown, concepts = self.config["figures"]["examples"] or EXAMPLES, sorted(self.config["tasks"][task]["concepts"])
        columns = len(concepts) * len(self.role_suites(task, ROLES[:2]))
        holds_all = shown_columns(columns, shown["kept"])[0] == columns
        settings = dict(concepts=concepts, shards=self.shard_counts(task, ROLES[:3]), methods=list(self.edits(task)))
        reads = dict(
            shards=[self.sample(*shard) for shard in self.task_shards(task, ROLES[:3])],
            scores=None if holds_all else self.objects_table(task)["record"],
        )
        return Told(settings | shown, reads)

    # What a run makes

    @cached_property
    def tables(self) -> list[Job]:
        return [self.objects_table(task) for task in self.config["tasks"]]

    @cached_property
    def figures(self) -> list[Job]:
        examples = [self.examples(task) for task in self.config["tasks"]] if self.config["figures"]["examples"] else []
        of_training = [
            draw(task["base"], name)
            for name, task in self.config["tasks"].items()
            if "mace" in task["methods"]
            for draw in (self.losses, self.mask_sheets)
        ]
        return examples + of_training


def _is_place(key: str, value: Any) -> bool:
    """Whether a key of a prior says where its texts are, rather than what is made of them."""
    return key in ("file", "coco") or (key == "templates" and isinstance(value, str))
