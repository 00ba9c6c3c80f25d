"""What each job reads, writes and is told: one declaration per rule. No Snakemake, no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lethe.config.planning import I2P, Inputs, measured_tasks
from lethe.config.resolve import anchor_image_settings, image_settings, mask_settings
from lethe.config.schema import method_of
from lethe.files.shards import COLUMNS, OWN_SETTINGS
from lethe.inputs.concepts import slug_of
from lethe.inputs.pictures import called
from lethe.inputs.priors import prior_files
from lethe.inputs.suites import class_names, fetched_digests, shard_digests, suite_file, without_place
from lethe.inputs.templates import read_templates, template_file
from lethe.jobs import PLACES, Folder, Given, Job, Made, Shown, Told, spelled, step
from lethe.pictures.examples import shown_columns
from lethe.pictures.gallery import PAGE
from lethe.plugins import Manifest, manifest
from lethe.records.fingerprints import content_hash, fingerprint, sha256_of, text_fingerprint
from lethe.tables.known import arguments_of
from lethe.tables.published import read_published

FILE_OF = {"anchor_captions": "anchor_images"}  # of artefacts that lie in the file of another
STAND_INS = ("original", "random")  # for an edit: the base as it is, and with random weights
EXAMPLES = dict(seeds=[1, 2], kept=7)  # of a figure that the configuration leaves out and somebody asks for by name
COCO = "results/coco/"


class Slice(NamedTuple):
    """Where the rows of a shard are: those of a suite that have one of some types, None for all, cut into shards."""

    suite: str
    types: list[str] | None
    number: int
    digest: str
    rows: int


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
        evaluated = {measured.task: measured for measured in measured_tasks(config, inputs)}
        self.measured = {task: measured for task, measured in evaluated.items() if not measured.attacks}
        self.attacked = {task: measured for task, measured in evaluated.items() if measured.attacks}
        self.recipes: dict[str, dict[str, Any]] = {}
        self.slices: dict[tuple[str, str], Slice] = {}
        remembered = (self.given, self.identified, self.of_base, self.text_of, self.used_templates, self.shards)
        for method in (*remembered, self.method, self.recipe, self.sampled):
            setattr(self, method.__name__, cache(method))
        for task in config["tasks"]:
            for name in self.methods(task):
                self.recipe(task, name)
            for suite in self.sampled(task):
                self.shards(task, suite)

    # What the configuration names

    def given(self, path: str) -> Given:
        """A file or folder of which the whole content counts."""
        where = Path(path)
        if not where.exists():
            return Given(path, spelled(path))
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

    def with_models(self, settings: Mapping[str, Any], rules: Mapping[str, Any], at: str) -> dict[str, Any]:
        """Settings at a key of the configuration, models by what they are too, also those of groups within."""
        found = dict(settings)
        for key, rule in ((key, rule) for key, rule in rules["properties"].items() if key in settings):
            if "properties" in rule:
                found[key] = self.with_models(found[key], rule, f"{at}.{key}")
            elif "model" in rule:
                found |= self.identified(spelled(found[key]), found.get("revision"), key=f"{at}.{key}")
        return found

    def text_settings(self, text: str) -> dict:
        """The text encoders that have a fingerprint, where one of the bases has them."""
        base = next(self.of_base(name) for name in self.config["bases"] if self.text_of(name) == text)
        return {key: base[key] for key in PLACES} | dict(fingerprint=text)

    def numeric(self, base: str) -> dict:
        """Settings of a step that computes with a base."""
        return dict(base=self.of_base(base), precision=self.config["precision"])

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
        path = template_file(self.config["templates"], kind)
        return Given(path, tuple(read_templates(Path(path))[: self.config["templates"]["used"]]))

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
        return self.drawn(base, of.name, image_settings(self.config["images"], of.kind))

    @step("lethe.steps.images", images="results/{base}/concepts/{concept}/anchor_images.zip")
    def anchor_images(self, base: str, concept: str) -> Told:
        """Of prompts beyond as many as there are images none counts."""
        of, reads = self.concepts[concept], {}
        images = anchor_image_settings(self.config["images"], of.kind)
        prompts = images.get("prompts")
        if isinstance(prompts, str):
            del images["prompts"]
            reads["prompts"] = Given(prompts, tuple(read_templates(Path(prompts))[: images["count"]]))
        elif prompts:
            images["prompts"] = prompts[: images["count"]]
        return self.drawn(base, of.anchor, images, **reads)

    def drawn(self, base: str, phrase: str, images: Mapping[str, Any], **reads: Given) -> Told:
        """Training images of a phrase."""
        settings = self.numeric(base) | dict(concept=phrase, seed=self.config["seed"], images=images)
        return Told(settings, reads, doing=f"{images['count']} images of {phrase}")

    @step(masks="results/{base}/concepts/{concept}/masks.zip")
    def masks(self, base: str, concept: str) -> Told:
        settings = dict(concept=self.concepts[concept].name, masks=self.segmentation(concept))
        return Told(settings, dict(images=self.images(base, concept)), doing=f"masks of {settings['concept']}")

    @step(moments="results/{base}/concepts/{concept}/moments.safetensors")
    def moments(self, base: str, concept: str) -> Told:
        of = self.concepts[concept]
        settings = dict(text=self.text_settings(self.text_of(base)), precision=self.config["precision"])
        settings |= dict(concept=of.name, anchor=of.anchor, templates_used=self.config["templates"]["used"])
        return Told(settings, dict(templates=self.used_templates(of.kind)), doing=f"moments of {of.name}")

    @step(
        train=f"{COCO}captions_train2014.json",
        val=f"{COCO}captions_val2014.json",
        record=f"{COCO}source.json",
    )
    def coco_annotations(self) -> Told:
        return Told(self.config["downloads"]["coco_annotations"], doing="download of COCO's captions")

    @step(prompts=I2P, record="results/i2p/source.json")
    def i2p(self) -> Told:
        return Told(self.config["downloads"]["i2p"], doing="download of I2P's prompts")

    @cached_property
    def fetched(self) -> dict[str, Made]:
        """The files that a run fetches where something reads them, by their paths."""
        return {path: job[name] for job in (self.coco_annotations(), self.i2p()) for name, path in job.outputs.items()}

    @step(prior="results/priors/{text}/{prior}.safetensors")
    def prior(self, text: str, prior: str) -> Told:
        chosen = self.config["priors"][prior]
        settings = dict(text=self.text_settings(text), precision=self.config["precision"])
        settings["columns"] = _without_places(chosen)
        return Told(settings, dict(sources=self.sources(chosen)), aside=dict(prior=chosen))

    def sources(self, prior: Mapping[str, Any]) -> list[Made | Given]:
        """The files that hold a prior's texts."""
        return [self.fetched.get(spelled(path)) or self.given(path) for path in prior_files(prior)]

    # Methods

    def methods(self, task: str) -> dict[str, Manifest]:
        """The methods of a task, and what their kinds say of themselves."""
        names = self.config["tasks"][task]["methods"]
        return {name: manifest("methods", self.config["methods"][name]["kind"]) for name in names}

    def method(self, task: str, name: str) -> dict[str, Any]:
        """A method's settings in a task, its kind among them."""
        return method_of(self.config, task, name)

    def reads(self, base: str, task: str, name: str) -> dict[str, Any]:
        """What a method reads: artefacts of concepts that its manifest names, and what its settings name of priors."""
        settings, said = self.method(task, name), self.methods(task)[name]
        slugs = self.task_slugs(task)
        found: dict[str, Any] = {}
        for artefact in said.reads:
            if artefact == "loras":
                found[artefact] = [lora["lora"] for lora in self.loras(base, task, name)]
            elif artefact == "adapters":
                found[artefact] = [adapter["adapter"] for adapter in self.adapters(base, task, name)]
            else:
                found[artefact] = [getattr(self, FILE_OF.get(artefact, artefact))(base, slug) for slug in slugs]
        return found | self.named_texts(base, settings, said)

    def named_texts(self, base: str, settings: Mapping[str, Any], said: Manifest) -> dict[str, Any]:
        """The priors that settings name: their moments, or the files of their texts where these are a list."""
        lists = {key: self.sources(prior) for key, prior in self.lists(settings, said).items()}
        return lists | self.priors(base, settings, said)

    def lists(self, settings: Mapping[str, Any], said: Manifest) -> dict[str, dict[str, Any]]:
        """The priors whose texts are a list in settings, by the settings' names."""
        given = {key: settings[key] for key in said.of_type("texts_or_prior")}
        return {key: self.config["priors"][value["prior"]] for key, value in given.items() if isinstance(value, dict)}

    def priors(self, base: str, settings: Mapping[str, Any], said: Manifest) -> dict[str, Job | None]:
        """The priors that settings name, by the settings' names."""
        text = self.text_of(base)
        return {key: settings[key] and self.prior(text, settings[key]) for key in said.entries_of("priors")}

    @step(edit="results/{base}/edits/{task}/{method}.safetensors")
    def edit(self, base: str, task: str, method: str) -> Told:
        told, aside = self.told_of_method(base, self.method(task, method), f"methods.{method}")
        concepts = [self.erased(slug) for slug in self.task_slugs(task)]
        reads, plugins = self.reads(base, task, method), [self.methods(task)[method].module]
        doing = f"edit {task}/{method}, {len(concepts)} concepts"
        return Told(told | dict(task=task, concepts=concepts), reads, aside | dict(name=method), plugins, doing)

    def told_of_method(self, base: str, settings: Mapping[str, Any], at: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a job is told of a method's settings at a key of the configuration; what beside it decides nothing."""
        said = manifest("methods", settings["kind"])
        named, lists = said.entries_of("priors"), self.lists(settings, said)
        own = self.with_models(settings, said.settings, at)
        told = self.numeric(base) | dict(
            kind=said.name,
            method={key: value for key, value in own.items() if key not in ("kind", *named, *lists)},
            columns={key: _without_places(prior) for key, prior in lists.items()},
            seed=self.config["seed"] if said.more.get("draws") else None,
        )
        return told, dict(priors={key: settings[key] for key in named}, lists=lists)

    # What a method trains for each concept by itself

    def recipe(self, task: str, name: str) -> str | None:
        """What a method makes of each concept is made by, as 8 hex digits in its address; None where it is nothing."""
        jobs = self.methods(task)[name].more.get("concept_jobs")
        if jobs is None:
            return None
        without = jobs.get("without", ())
        chosen = {key: value for key, value in self.method(task, name).items() if key not in without}
        if jobs["job"] == "lora" and chosen["lora"]["form"] == "mace":  # so that addresses from before forms stay
            chosen["lora"] = {key: value for key, value in chosen["lora"].items() if key != "form"}
        digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
        self.recipes[digest] = chosen
        return digest

    @step(
        adapter="results/{base}/concepts/{concept}/adapters/{recipe}.safetensors",
        curve="results/{base}/concepts/{concept}/adapters/{recipe}.csv",
    )
    def adapter(self, base: str, concept: str, recipe: str) -> Told:
        chosen = self.recipes[recipe]
        said = manifest("methods", chosen["kind"])
        told, aside = self.told_of_method(base, chosen, f"methods.{said.name}")
        reads, of = self.named_texts(base, chosen, said), self.erased(concept)
        return Told(told | dict(concept=of), reads, aside, [said.module], f"adapter of {of['name']} for {said.name}")

    def adapters(self, base: str, task: str, name: str) -> list[Job]:
        """A method's adapters of a task's concepts, which all tasks share."""
        recipe = self.recipe(task, name)
        return [self.adapter(base, slug, recipe) for slug in self.task_slugs(task)]

    def curves(self, base: str, task: str, name: str) -> list[Made]:
        """The losses of what a method trains for each concept by itself."""
        jobs = self.methods(task)[name].more.get("concept_jobs", {}).get("job")
        made = {"lora": self.loras, "adapter": self.adapters}
        return [job["curve"] for job in made[jobs](base, task, name)] if jobs else []

    # MACE's LoRAs

    def lora_told(self, base: str, recipe: str, concept: str, moments: Job | list[Job]) -> Told:
        """A LoRA of a recipe, trained on the base refined for the concepts whose moments these are."""
        of, chosen = self.concepts[concept], self.recipes[recipe]
        settings = self.numeric(base) | dict(
            concept=of.name, seed=self.config["seed"], templates_used=self.config["templates"]["used"]
        )
        settings |= {key: value for key, value in chosen.items() if key not in ("prior", "domain_prior")}
        settings |= dict(anchor=of.anchor) if chosen["lora"].get("form") == "supl" else {}
        preserves = chosen["lora"]["preservation_weight"] > 0
        reads = dict(
            images=self.images(base, concept),
            masks=self.masks(base, concept),
            anchor_images=self.anchor_images(base, concept) if preserves else None,
            templates=self.used_templates(of.kind),
            moments=moments,
            **self.priors(base, chosen, manifest("methods", "mace")),
        )
        return Told(settings, reads, doing=f"LoRA of {of.name}, {chosen['lora']['steps']} steps")

    @step(
        lora="results/{base}/concepts/{concept}/loras/{recipe}/pytorch_lora_weights.safetensors",
        curve="results/{base}/concepts/{concept}/loras/{recipe}/loss.csv",
    )
    def lora(self, base: str, concept: str, recipe: str) -> Told:
        return self.lora_told(base, recipe, concept, self.moments(base, concept))

    @step(
        "lethe.steps.lora",
        lora="results/{base}/edits/{task}/loras/{recipe}/{concept}/pytorch_lora_weights.safetensors",
        curve="results/{base}/edits/{task}/loras/{recipe}/{concept}/loss.csv",
    )
    def task_lora(self, base: str, task: str, recipe: str, concept: str) -> Told:
        moments = [self.moments(base, slug) for slug in self.task_slugs(task)]
        return self.lora_told(base, recipe, concept, moments)

    def loras(self, base: str, task: str, name: str) -> list[Job]:
        """LoRAs of a task's concepts: shared by all tasks, or trained on the base refined for this one."""
        settings, recipe = self.method(task, name), self.recipe(task, name)
        if settings["fusion"] == "none":
            return []
        if settings["lora_base"] == "task":
            return [self.task_lora(base, task, recipe, slug) for slug in self.task_slugs(task)]
        return [self.lora(base, slug, recipe) for slug in self.task_slugs(task)]

    @step(figure=Shown("results/{base}/edits/{task}/{method}/losses.png", "Training", "losses"))
    def losses(self, base: str, task: str, method: str) -> Told:
        curves = self.curves(base, task, method)
        return Told(dict(concepts=self.task_names(task)), dict(curves=curves), doing=f"losses of {task}/{method}")

    @step(sheets=Shown(Folder("results/{base}/edits/{task}/masks"), "Training", "masks", each="{concept}.png"))
    def mask_sheets(self, base: str, task: str) -> Told:
        slugs = self.task_slugs(task)
        segmenters = [self.segmentation(slug)["segmenter"] for slug in slugs]
        reads = {name: [getattr(self, name)(base, slug) for slug in slugs] for name in ("images", "masks")}
        return Told(dict(concepts=self.task_names(task), segmenters=segmenters), reads)

    # Samples

    def sampled(self, task: str) -> dict[str, list[str] | None]:
        """The suites that a task samples, and of which types the rows are that it uses; None for all rows."""
        found: dict[str, list[str] | None] = dict.fromkeys(self.config["tasks"][task]["suites"])
        if measured := self.measured.get(task):
            for role in measured.roles:
                suite = measured.chosen[role]
                if suite in self.inputs.fetched:
                    found[suite] = None
                    continue
                types = self.inputs.suites[suite]["type"]
                used = set(types[measured.used(role, types)].unique())
                if found.setdefault(suite, []) is not None:
                    found[suite] = sorted(used | set(found[suite]))
        for suite, types in found.items():
            if types is not None and set(self.inputs.suites[suite]["type"].unique()) <= set(types):
                found[suite] = None
        return found

    @step(rows="results/suites/{suite}.csv")
    def suite(self, suite: str) -> Told:
        """The rows of a suite. Where they are drawn or fetched, these are what samples read."""
        source, path = self.config["suites"][suite], str(suite_file(self.config["suites"][suite]))
        if suite in self.inputs.fetched:
            settings = dict(said=without_place(source), count=self.inputs.fetched[suite])
            return Told(settings, dict(source=self.fetched.get(spelled(path)) or self.given(path)), dict(rows=source))
        rows = self.inputs.suites[suite]
        return Told(dict(count=None), dict(source=Given(path, shard_digests(rows, len(rows)))), dict(rows=source))

    def shards(self, task: str, suite: str) -> list[str]:
        """Names of the shards of a task's rows of a suite, after what is in them: tasks share what they have alike."""
        types, size, names = self.sampled(task)[suite], self.config["sampling"]["shard_size"], []
        if suite in self.inputs.fetched:
            count, digests = self.inputs.fetched[suite], fetched_digests(self.config["suites"][suite], size)
        else:
            rows = self.inputs.suites[suite]
            chosen = rows if types is None else rows[rows["type"].isin(types)]
            count, digests = len(chosen), shard_digests(chosen, size)
        for number, digest in enumerate(digests):
            names.append(digest[:12])
            self.slices.setdefault(
                (suite, digest[:12]), Slice(suite, types, number, digest, min(size, count - number * size))
            )
        return names

    def sampled_edit(self, base: str, edit: str) -> Job | None:
        """The job that makes the edit `task/method`; None for the base as it is."""
        return None if edit == "original" else self.edit(base, *edit.split("/"))

    @step(shard="results/{base}/samples/{edit}/{suite}/{shard}.zip")
    def sample(self, base: str, edit: str, suite: str, shard: str) -> Told:
        """A shard is what its rows are; where in its suite they stand only helps to find them."""
        rows, where = self.config["suites"][suite], self.slices[suite, shard]
        source, digest = Given(str(suite_file(rows)), None), where.digest
        if suite in self.inputs.fetched:  # its rows are what their own job made of them
            source, digest = self.suite(suite)["rows"], None
            own = {key: key for key in OWN_SETTINGS if key in rows.get("columns", {})}
            rows = dict(file=source.path, columns={key: key for key in COLUMNS} | own)
        settings = self.numeric(base) | dict(sampling=self.config["sampling"], digest=digest)
        about = dict(base=base, edit=edit, suite=suite, shard=shard)
        made = self.sampled_edit(base, edit)
        plugins = []
        if made:
            task, name = edit.split("/")
            said = self.methods(task)[name]
            plugins = [said.module] if said.more.get("form") == "guidance" else []
        aside = dict(rows=rows, types=where.types, shard=where.number)
        doing = f"{where.rows} images from {edit} ({suite})"
        return Told(settings | dict(about=about), dict(source=source, edit=made), aside, plugins, doing)

    # Measures

    def measure_settings(self, name: str) -> dict[str, Any]:
        """The settings of a measure, models and files by what they are."""
        settings = self.config["measures"][name]
        said = manifest("measures", settings["kind"])
        measure = self.with_models(settings, said.settings, f"measures.{name}")
        for key, path in self.measure_files(name).items():
            held = said.settings["properties"][key].get("holds")
            content = (
                {part: self.given(f"{path}/{part}").content for part in held} if held else self.given(path).content
            )
            measure[key] = content
        return dict(kind=said.name, name=name, measure=measure)

    def measure_files(self, name: str) -> dict[str, str]:
        """Where the files are that the settings of a measure name."""
        settings = self.config["measures"][name]
        return self.files_of(settings, manifest("measures", settings["kind"]))

    def measuring(
        self, name: str, what: str, reads: Mapping[str, Any], aside: Mapping[str, Any] | None = None, **more: Any
    ) -> Told:
        """A job that measures something, in words `what`."""
        module = manifest("measures", self.config["measures"][name]["kind"]).module
        where = dict(files=self.measure_files(name))
        return Told(self.measure_settings(name) | more, reads, where | dict(aside or {}), [module], f"{name} of {what}")

    @step(measure="results/{base}/measures/{edit}/{suite}/{shard}.{measure}.parquet")
    def measure(self, base: str, edit: str, suite: str, shard: str, measure: str) -> Told:
        return self.measuring(
            measure, f"images from {edit} ({suite})", dict(shard=self.sample(base, edit, suite, shard))
        )

    @step("lethe.steps.measure", measure="results/references/{reference}.{measure}.parquet")
    def reference(self, reference: str, measure: str) -> Told:
        """Real images, by the name that `reference_name` gives them."""
        path = next(path for path in self.references() if reference_name(path) == reference)
        return self.measuring(measure, f"the real {called(path)}", dict(images=self.given(path)), reference=reference)

    @step(texts="results/evaluations/{evaluation}/{texts}.{measure}.parquet")
    def texts(self, evaluation: str, texts: str, measure: str) -> Told:
        """Texts of an evaluation, such as the prompts of its classes."""
        chosen = self.config["evaluations"][evaluation]
        table = Given(chosen[texts]["table"], self.inputs.classes[evaluation])
        about = dict(evaluation=evaluation, texts=texts)
        aside = dict(column=chosen[texts]["column"])
        what = f"the {texts} of {evaluation}"
        return self.measuring(measure, what, dict(table=table), aside, prompt=chosen["class_prompt"], **about)

    def references(self) -> list[str]:
        """Every set of real images that an evaluation compares with."""
        evaluations = self.config["evaluations"].values()
        keys = [(e, manifest("tables", e["kind"]).more.get("references", {})) for e in evaluations]
        return [evaluation[key] for evaluation, named in keys for key in named if evaluation[key] is not None]

    # Attacks

    def ghosts(self, evaluation: str) -> list[str]:
        """What an evaluation's judges know and its base never learned."""
        told = self.config["evaluations"][evaluation]["ghosts"]
        return class_names(told["table"], told["column"]) if told["table"] else []

    def judging(self, base: str, evaluation: str, kind: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What jobs of an evaluation's attacks are told of drawing and judging; what they read; where that is."""
        chosen = self.config["evaluations"][evaluation]
        measures = {key: chosen[key] for key in ("clip", "classifier")}
        settings = self.numeric(base) | dict(
            evaluation=evaluation,
            sampling=self.config["sampling"],
            seed=self.config["seed"],
            prompt=self.config["images"]["prompts"][kind],
            class_prompt=chosen["class_prompt"],
            ghosts=self.ghosts(evaluation),
            measures={key: self.measure_settings(name) for key, name in measures.items()},
        )
        aside = dict(
            column=chosen["classes"]["column"],
            files={key: self.measure_files(name) for key, name in measures.items()},
        )
        return settings, dict(classes=Given(chosen["classes"]["table"], self.inputs.classes[evaluation])), aside

    @step(
        images="results/{base}/probes/{evaluation}/controls.parquet",
        thresholds="results/{base}/probes/{evaluation}/thresholds.json",
    )
    def controls(self, base: str, evaluation: str) -> Told:
        """Images that cannot show what is erased, and from which probability on judges count."""
        settings, reads, aside = self.judging(base, evaluation, "object")
        chosen = self.config["evaluations"][evaluation]["controls"]
        own = {key: value for key, value in chosen.items() if key != "random_unet"}  # which is a matter of probes
        return Told(settings | dict(controls=own), reads, aside)

    @step(
        rows="results/{base}/probes/{evaluation}/{attacked}/{concept}/{probe}.parquet",
        images="results/{base}/probes/{evaluation}/{attacked}/{concept}/{probe}.zip",
    )
    def probe(self, base: str, evaluation: str, attacked: str, concept: str, probe: str) -> Told:
        """A probe on an edit `task/method`, on the base as it is (original) or on one with random weights (random)."""
        of, files = self.attacked_concept(evaluation, concept), self.probe_files(probe)
        settings, reads, aside = self.judging(base, evaluation, of["kind"])
        settings |= self.told_of_probe(base, evaluation, attacked, probe) | dict(concept=of)
        settings |= dict(report=self.config["evaluations"][evaluation]["report"])
        drawn = self.words(base, evaluation, attacked, probe) if "words" in self.probe_kind(probe).reads else None
        reads |= dict(
            edit=self.attacked_edit(base, attacked),
            thresholds=self.controls(base, evaluation)["thresholds"],
            words=drawn,
        )
        reads |= {key: self.given(path) for key, path in files.items()}
        return Told(settings, reads, aside | dict(probe_files=files), self.probing(attacked, probe))

    @step(images="results/{base}/words/{evaluation}/{attacked}/{probe}.zip")
    def words(self, base: str, evaluation: str, attacked: str, probe: str) -> Told:
        """What a probe that reads it draws of every word, whatever the concept."""
        settings = self.numeric(base) | dict(sampling=self.config["sampling"], seed=self.config["seed"])
        settings |= self.told_of_probe(base, evaluation, attacked, probe)
        reads = dict(edit=self.attacked_edit(base, attacked))
        return Told(settings, reads, plugins=self.probing(attacked, probe), doing=f"every word drawn by {attacked}")

    def told_of_probe(self, base: str, evaluation: str, attacked: str, probe: str) -> dict[str, Any]:
        """A probe's kind, settings and seeds of its search, and what it is of."""
        said = self.probe_kind(probe)
        told = self.with_models(self.config["probes"][probe], said.settings, f"probes.{probe}")
        told |= {key: self.given(path).content for key, path in self.probe_files(probe).items()}
        return dict(
            kind=said.name,
            probe={key: value for key, value in told.items() if key != "kind"},
            search=self.config["evaluations"][evaluation]["search"],
            about=dict(base=base, edit=attacked, evaluation=evaluation, probe=probe),
        )

    def attacked_edit(self, base: str, attacked: str) -> Job | None:
        """The edit that is attacked, where it is one."""
        return None if attacked in STAND_INS else self.edit(base, *attacked.split("/"))

    def probing(self, attacked: str, probe: str) -> list[str]:
        """The modules of a probe, and of the method whose edit it attacks where that has a form of its own."""
        plugins = [self.probe_kind(probe).module]
        if attacked not in STAND_INS:
            task, method = attacked.split("/")
            if (said := self.methods(task)[method]).more.get("form"):
                plugins.append(said.module)
        return plugins

    def probe_kind(self, probe: str) -> Manifest:
        """What the kind of a probe says of itself."""
        return manifest("probes", self.config["probes"][probe]["kind"])

    def probe_files(self, probe: str) -> dict[str, str]:
        """Where the files are that a probe's settings name."""
        return self.files_of(self.config["probes"][probe], self.probe_kind(probe))

    def files_of(self, settings: Mapping[str, Any], said: Manifest) -> dict[str, str]:
        """Where the files are that settings of a plug-in name."""
        rules = said.settings["properties"]
        return {key: settings[key] for key, rule in rules.items() if "file" in rule and settings[key] is not None}

    def attacked_concept(self, evaluation: str, slug: str) -> dict[str, Any]:
        """What a probe is told of a concept, or of a ghost, which has no other words."""
        if slug in self.concepts:
            return self.erased(slug) | dict(synonyms=list(self.concepts[slug].synonyms))
        name = next(name for name in self.ghosts(evaluation) if slug_of(name) == slug)
        return dict(name=name, kind="object", anchor=name, synonyms=[])

    def attacked_task(self, task: str) -> tuple[dict[str, Any], list[Job]]:
        """What a table of attacks is told of a task, and the trials of all its probes and of their controls."""
        measured, base = self.attacked[task], self.config["tasks"][task]["base"]
        name, chosen, slugs = measured.evaluation, measured.chosen, self.task_slugs(task)
        ghosts = [slug_of(ghost) for ghost in self.ghosts(name)[: chosen["ghosts"]["attacked"]]]
        jobs = []
        for probe in self.attacking(task):
            controls = self.probe_kind(probe).more.get("controls", ())
            attacked = [(edit, slug) for edit in self.edits(task).values() for slug in slugs]
            attacked += [("original", ghost) for ghost in ghosts if "ghosts" in controls]
            if "random" in controls and chosen["controls"]["random_unet"]:
                attacked.append(("random", slugs[0]))
            jobs += [self.probe(base, name, edit, slug, probe)["rows"] for edit, slug in attacked]
        told = dict(
            base=base,
            evaluation=name,
            concepts=[self.concepts[slug].name for slug in slugs],
            edits=list(self.edits(task).items()),
            probes=[[probe, self.probe_kind(probe).name] for probe in self.attacking(task)],
            clip=self.measure_settings(chosen["clip"])["measure"].get("model"),
            ghosts=self.ghosts(name)[: chosen["ghosts"]["attacked"]],
        )
        return told, jobs

    @step(
        table=Shown("results/tables/{attacks}.csv", "Attacks", "a row for each edit and probe"),
        concepts=Shown("results/tables/{attacks}_by_concept.csv", "Attacks", "by concept and part of a probe"),
        effects=Shown("results/tables/{attacks}_side_effects.csv", "Attacks", "what edits do besides"),
        record="results/tables/{attacks}.json",
    )
    def attack_table(self, attacks: str) -> Told:
        """What probes brought back, of each edit of each task."""
        tasks, reads = {}, dict(rows=[], effects=[], effects_images=[], controls=[])
        for task in self.tasks_of(attacks):
            tasks[task], jobs = self.attacked_task(task)
            reads["rows"] += jobs
            effects = self.side_effects(task)
            reads["effects"] += [job["rows"] for job in effects]
            reads["effects_images"] += [job["images"] for job in effects]
            reads["controls"].append(self.controls(tasks[task]["base"], tasks[task]["evaluation"])["images"])
        reads = {key: list(dict.fromkeys(made)) for key, made in reads.items()}
        kind = manifest("tables", self.attacked[self.tasks_of(attacks)[0]].chosen["kind"])
        return Told(dict(kind=kind.name, tasks=list(tasks.items())), reads, plugins=[kind.module])

    def attacking(self, task: str) -> list[str]:
        """The probes of a task's evaluation that are attacks."""
        probes = self.attacked[task].chosen["probes"]
        return [probe for probe in probes if self.probe_kind(probe).more.get("attack", True)]

    def side_effects(self, task: str) -> list[Job]:
        """What the others drew."""
        others = [p for p in self.attacked[task].chosen["probes"] if p not in self.attacking(task)]
        edits, slugs = self.edits(task).values(), self.task_slugs(task)
        return [self.attack(task, edit, slug, probe) for probe in others for edit in edits for slug in slugs]

    @step(figure=Shown("results/figures/{task}/brought_back.png", "Attacks", "what brought most back, an image each"))
    def attack_pictures(self, task: str) -> Told:
        """Of each probe and edit of a task the image with the concept on it that the judge is surest of."""
        told, _ = self.attacked_task(task)
        jobs = [self.attack(task, edit, slug, probe) for probe, edit, slug in self.attacks_on(task)]
        settings = {key: told[key] for key in ("edits", "concepts")}
        settings |= dict(task=task, probes=[probe for probe, _ in told["probes"]])
        return Told(settings, dict(rows=[job["rows"] for job in jobs], images=[job["images"] for job in jobs]))

    @step(figure=Shown("results/figures/{task}/relearning.png", "Attacks", "how fast finetuning brings it back"))
    def attack_curves(self, task: str) -> Told:
        """The rate after so many steps, of each edit, of the base as it is, and of a word that it never knew."""
        told, _ = self.attacked_task(task)
        mine = [place for place in self.attacks_on(task) if place[0] in self.relearned(task)]
        settings = dict(task=task, edits=told["edits"], concepts=told["concepts"])
        return Told(settings, dict(rows=[self.attack(task, edit, slug, probe)["rows"] for probe, edit, slug in mine]))

    def relearned(self, task: str) -> list[str]:
        """The probes of a task that finetune."""
        probes = self.attacked[task].chosen["probes"]
        return [probe for probe in probes if "relearning" in self.probe_kind(probe).more.get("pictures", ())]

    def attacks_on(self, task: str) -> list[tuple[str, str, str]]:
        """Probe, edit and concept of each attack on a task, those of its controls left out."""
        probes, edits = self.attacking(task), self.edits(task).values()
        return [(probe, edit, slug) for probe in probes for edit in edits for slug in self.task_slugs(task)]

    def attack(self, task: str, edit: str, slug: str, probe: str) -> Job:
        """The job of one of them."""
        return self.probe(self.config["tasks"][task]["base"], self.attacked[task].evaluation, edit, slug, probe)

    # Tables and pictures

    def edits(self, task: str) -> dict[str, str]:
        """The base as it is, then every method's edit of a task."""
        return {"original": "original"} | {
            method: f"{task}/{method}" for method in self.config["tasks"][task]["methods"]
        }

    def tasks_of(self, table: str) -> list[str]:
        """The tasks of a table: those that it names, or that of its name."""
        return self.config["tables"].get(table, {}).get("tasks", [table])

    def measured_task(self, task: str) -> tuple[dict[str, Any], list[Job]]:
        """What a table is told of a task, and the measures of all its shards."""
        measured, base = self.measured[task], self.config["tasks"][task]["base"]
        by_suite: dict[str, set[str]] = {}
        for role, shown in measured.roles.items():
            names = {measured.chosen[by] for by in shown["measures"]} - {None}
            by_suite.setdefault(measured.chosen[role], set()).update(names)
        jobs = [
            self.measure(base, edit, suite, shard, name)
            for edit in self.edits(task).values()
            for suite, names in by_suite.items()
            for shard in self.shards(task, suite)
            for name in sorted(names)
        ]
        told = dict(
            base=base,
            concepts=sorted(concept.name for concept in measured.erased),
            edits=list(self.edits(task).items()),
            evaluation=without_files(measured.chosen),
            name=measured.evaluation,
            remedies={name: said.more.get("remedy") for name, said in self.methods(task).items()},
            references={key: [by, reference_name(measured.chosen[key])] for key, by in measured.references.items()},
            shards={suite: self.shards(task, suite) for suite in by_suite},
        )
        return told, jobs

    @step(
        table=Shown("results/tables/{table}.csv", "Numbers", "a row for each edit"),
        concepts=Shown("results/tables/{table}_by_concept.csv", "Numbers", "by concept"),
        images=Shown("results/tables/{table}.images.csv", "Numbers", "by image"),
        numbers=Shown("results/tables/{table}.numbers.csv", "Numbers", "each with n, interval and protocol"),
        record="results/tables/{table}.json",
    )
    def table(self, table: str) -> Told:
        """One row for each edit of each task."""
        tasks, measures, texts, references = {}, [], [], []
        for task in self.tasks_of(table):
            measured = self.measured[task]
            tasks[task], jobs = self.measured_task(task)
            measures += jobs
            for name, by in measured.texts.items():
                texts.append(self.texts(measured.evaluation, name, measured.chosen[by]))
            for name, by in measured.references.items():
                references.append(self.reference(reference_name(measured.chosen[name]), measured.chosen[by]))
        bases = dict.fromkeys(told["base"] for told in tasks.values())
        kind = manifest("tables", next(iter(tasks.values()))["evaluation"]["kind"])
        names = dict.fromkeys(m for told in tasks.values() for m in self.measures_of(told["evaluation"]))
        settings = dict(
            kind=kind.name,
            tasks=list(tasks.items()),  # in their order, as JSON objects have none here
            measures={name: self.measure_settings(name) for name in names},
            sampling=self.config["sampling"],
            protocols=arguments_of(kind.more.get("protocols", ())),
        )
        if self.config["tables"].get(table, {}).get("average"):
            settings["average"] = True
        reads = dict(
            measures=list(dict.fromkeys(measures)),
            texts=list(dict.fromkeys(texts)),
            references=list(dict.fromkeys(references)),
            bases=[self.base(base) for base in bases],
        )
        return Told(settings, reads, plugins=[kind.module])

    def measures_of(self, evaluation: Mapping[str, Any]) -> list[str]:
        """The measures that an evaluation names."""
        keys = manifest("tables", evaluation["kind"]).entries_of("measures")
        return [evaluation[key] for key in keys if evaluation[key]]

    @step(figure=Shown("results/tables/{table}.png", "Numbers", "by how many concepts were erased"))
    def counts(self, table: str) -> Told:
        """What each method of a table's tasks does, by how many concepts they erase."""
        erased = {task: len(self.config["tasks"][task]["concepts"]) for task in self.tasks_of(table)}
        made = self.table(table)
        reads = {name: made[name] for name in ("table", "record")}
        return Told(dict(name=table, erased=list(erased.items())), reads)

    @step(
        beside=Shown("results/tables/paper/{table}.csv", "Numbers", "beside published ones"),
        markdown="results/tables/paper/{table}.md",
        latex="results/tables/paper/{table}.tex",
    )
    def beside_published(self, table: str) -> Told:
        """A table beside the published one that it names."""
        named = self.config["tables"][table]["published"]
        published = read_published(named["set"], named["table"])
        settings = dict(
            name=table,
            published=published.said,
            methods=named["methods"],
            tasks=[[task, self.task_names(task)] for task in self.tasks_of(table)],
        )
        return Told(settings, dict(numbers=self.table(table)["numbers"], values=self.given(published.file)))

    @step(costs=Shown("results/tables/{table}.costs.csv", "Numbers", "what each edit took"))
    def costs(self, table: str) -> Told:
        """What each edit of a table took, jobs that others share among them."""
        rows, edits = [], []
        for task in self.tasks_of(table):
            for method in self.config["tasks"][task]["methods"]:
                edits.append(self.edit(self.config["tasks"][task]["base"], task, method))
                rows.append([task, method, len(self.config["tasks"][task]["concepts"])])
        behind = [sorted({next(iter(job.outputs.values())) for job in jobs_behind(edit)}) for edit in edits]
        return Told(dict(edits=rows), dict(edits=edits), dict(behind=behind))

    @step(figure=Shown("results/figures/{task}.png", "Pictures", "some before and after"))
    def examples(self, task: str) -> Told:
        """Where a picture has no room for all that a task erases, it shows the worst, by the table."""
        shown = self.config["figures"]["examples"] or EXAMPLES
        concepts, roles = sorted(self.config["tasks"][task]["concepts"]), self.shown_roles(task)
        gone = [role for role, (_, counts) in roles.items() if counts == "erased"]
        columns = len(concepts) * len(gone)
        holds_all = shown_columns(columns, shown["kept"])[0] == columns
        scores = None if holds_all or task not in self.measured else self.table(self.table_of(task))["record"]
        shards = self.samples_of(task, [suite for suite, _ in roles.values()])
        settings = dict(concepts=concepts, edits=list(self.edits(task).items()), roles=list(roles.items()), task=task)
        return Told(settings | shown, dict(shards=shards, scores=scores))

    @step(
        gallery=Shown("results/galleries/{task}.html", "Pictures", "all before and after"),
        edits=Shown("results/galleries/{task}.edits.csv", "Edits", "the edits"),
    )
    def gallery(self, task: str) -> Told:
        """Every sample of what counts before and after, with its verdict, and what a task's edits are."""
        base, measured = self.config["tasks"][task]["base"], self.measured.get(task)
        roles = self.shown_roles(task)
        made = self.table(self.table_of(task)) if measured else {}
        settings = dict(
            task=task,
            base=base,
            concepts=self.task_names(task),
            edits=list(self.edits(task).items()),
            roles=list(roles.items()),
            towards={number: measured.roles[role]["counts"] for role, number in measured.counted.items()}
            if measured
            else {},
            veiled=any(self.concepts[slug].kind == "explicit" for slug in self.task_slugs(task)),
            sampling={key: self.config["sampling"][key] for key in ("scheduler", "steps", "guidance")},
            page=self.hash_file(PAGE),
        )
        reads = dict(
            shards=self.samples_of(task, [suite for suite, _ in roles.values()]),
            edits=[self.edit(base, task, method) for method in self.config["tasks"][task]["methods"]],
            **{name: made[name] if made else None for name in ("images", "numbers", "concepts")},
        )
        return Told(settings, reads)

    def samples_of(self, task: str, suites: Iterable[str]) -> list[Job]:
        """The samples of some suites from the base of a task as it is, and from its edits."""
        base = self.config["tasks"][task]["base"]
        return [
            self.sample(base, edit, suite, shard)
            for edit in self.edits(task).values()
            for suite in dict.fromkeys(suites)
            for shard in self.shards(task, suite)
        ]

    def shown_roles(self, task: str) -> dict[str, tuple[str, str]]:
        """The suites that a task's figure shows by the role that they play, and what of them counts."""
        found: dict[str, tuple[str, str]] = {}
        if measured := self.measured.get(task):
            found = {role: (measured.chosen[role], said["counts"]) for role, said in measured.roles.items()}
            found = {role: shown for role, shown in found.items() if shown[1] != "all"}
        return found or {suite: (suite, "all") for suite in self.sampled(task)}

    def table_of(self, task: str) -> str:
        """The first table that a task stands in."""
        return next((name for name, table in self.config["tables"].items() if task in table["tasks"]), task)

    # What a run makes

    @cached_property
    def tables(self) -> list[Job]:
        """The tables of the configuration, and one for each measured task that none of them names."""
        return [self.attack_table(n) if self.is_of_attacks(n) else self.table(n) for n in self.table_names]

    def is_of_attacks(self, table: str) -> bool:
        """Whether a table is of attacks on its tasks."""
        return all(task in self.attacked for task in self.tasks_of(table))

    @cached_property
    def table_names(self) -> list[str]:
        evaluated = [self.table_of(task) for task in self.config["tasks"] if task in {**self.measured, **self.attacked}]
        return list(dict.fromkeys([*self.config["tables"], *evaluated]))

    @cached_property
    def figures(self) -> list[Job]:
        named = [job for table in self.config["tables"] for job in self.beside_table(table)]
        return named + [job for task in self.config["tasks"] for job in self.figures_of_task(task)]

    def beside_table(self, table: str) -> list[Job]:
        """What the configuration asks for besides a table: a picture, what its edits took, a published table."""
        asked = self.config["tables"].get(table, {})
        return [
            *([self.counts(table)] if asked.get("figure") == "counts" else []),
            *([self.costs(table)] if asked.get("costs") else []),
            *([self.beside_published(table)] if asked.get("published") else []),
        ]

    def figures_of_task(self, task: str) -> list[Job]:
        """Samples before and after, and what the task's methods show of how they trained."""
        base, found = self.config["tasks"][task]["base"], []
        if self.config["figures"]["examples"] and self.sampled(task):
            found.append(self.examples(task))
        if self.config["figures"]["gallery"] and self.sampled(task):
            found.append(self.gallery(task))
        pictures = {method: said.more.get("pictures", ()) for method, said in self.methods(task).items()}
        for method, drawn in pictures.items():
            if "losses" in drawn and self.curves(base, task, method):
                found.append(self.losses(base, task, method))
        if any("mask_sheets" in drawn for drawn in pictures.values()):
            found.append(self.mask_sheets(base, task))
        if task in self.attacked:
            found += [self.attack_pictures(task), *([self.attack_curves(task)] if self.relearned(task) else [])]
        return found

    def targets(self) -> dict[str, list[str]]:
        """The files of each table, by its name: itself, and what is drawn of it and of its tasks."""
        found = {}
        for made, table in zip(self.tables, self.table_names, strict=True):
            drawn = [*self.beside_table(table), *(f for t in self.tasks_of(table) for f in self.figures_of_task(t))]
            found[table] = [path for job in (made, *drawn) for path in job.outputs.values()]
        return found

    @cached_property
    def jobs(self) -> list[Job]:
        """Every job of a run: those of tables, pictures and samples, and all whose outputs they read."""
        found: dict[int, Job] = {}
        waiting = [*self.tables, *self.figures, *self.samples]
        while waiting:
            job = waiting.pop()
            if id(job) not in found:
                found[id(job)] = job
                waiting += [file.job for files in job.reads.values() for file in files if isinstance(file, Made)]
        return list(found.values())

    def images_of(self, job: Job) -> int:
        """How many images a job draws."""
        if job.step.module == "lethe.steps.images":
            return self.config["images"]["count"]
        if job.step.name != "sample":
            return 0
        about = job.told.settings["about"]
        return self.slices[about["suite"], about["shard"]].rows

    @cached_property
    def samples(self) -> list[Job]:
        """Shards that no table reads: of tasks without an evaluation, and of suites that they name besides it."""
        return [
            self.sample(task["base"], edit, suite, shard)
            for name, task in self.config["tasks"].items()
            for edit in self.edits(name).values()
            for suite in task["suites"]
            for shard in self.shards(name, suite)
        ]


def jobs_behind(job: Job) -> set[Job]:
    """The jobs without which a job cannot run, and itself."""
    made = {file.job for files in job.reads.values() for file in files if isinstance(file, Made)}
    return {job}.union(*map(jobs_behind, made))


def without_files(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation without those that say where something is; a group that is null stays."""
    rules = manifest("tables", evaluation["kind"]).settings["properties"]
    files = {key for key, rule in rules.items() if "file" in rule}
    groups = {key for key, rule in rules.items() if "properties" in rule and evaluation[key] is not None}
    return {key: value for key, value in evaluation.items() if key not in files | groups}


def reference_name(path: str) -> str:
    """What a set of real images is called in addresses: its name, and 8 hex digits of where it is."""
    where = spelled(path)
    return f"{called(where)}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def _without_places(prior: Mapping[str, Any]) -> dict[str, Any]:
    """What of a prior says what is made of its texts, rather than where they are."""
    places = [key for key, value in prior.items() if key == "templates" and isinstance(value, str)]
    return {key: value for key, value in prior.items() if key not in ("file", "coco", *places)}
