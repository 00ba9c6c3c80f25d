"""Sweep the settings of MACE on the emoji world: Acc_e, Acc_g, Acc_s and H_o of every combination, in one process.

Run it from the repository root after the default run, whose images, masks, moments and prior it reads:

    PYTHONPATH=workflow python benchmarks/mace_settings.py --threads 2

Samples use seeds outside the default suites, so that settings are not chosen on the images that the table reports.
The last line is a JSON list with one object per combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from lethe.bases import cross_attention_projections, load_pipeline, set_projections, text_encoders, use_scheduler
from lethe.closed_form import LowRank
from lethe.concepts import read_concepts
from lethe.embedded.quality import embed
from lethe.files import read_images
from lethe.lora import LoraSettings, attended_tokens, encode_images, train_lora
from lethe.measures.clip import load_judge, text_embeddings
from lethe.methods.mace import MaceSettings, erase, refinement, transformed
from lethe.moments import load_concept_moments, load_moment
from lethe.pixels import to_pixels
from lethe.prompts import fill, read_templates
from lethe.protocols import accuracy, h_o
from lethe.sampling import sample_rows
from lethe.suites import phrases
from lethe.text import encode_prompts

CPU = torch.device("cpu")


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs=2, default=[101, 104])
    parser.add_argument("--refine-scale", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1])
    parser.add_argument("--fuse-scale", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1])
    parser.add_argument("--ridge", type=float, nargs="+", default=[1.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[50])
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[1e-3])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    pipeline = load_pipeline(config["bases"]["emoji"]["model"], None, device=CPU, precision="float32")
    judge = load_judge(config["evaluations"]["objects"]["clip"], device=CPU)
    named = {concept.name: concept for concept in read_concepts(config["concepts"])}
    concepts = [named[name] for name in sorted(config["tasks"]["objects"]["concepts"])]
    folders = [Path("results/emoji/concepts") / concept.slug for concept in concepts]
    moments = [load_concept_moments(folder / "moments.safetensors") for folder in folders]
    prior = load_moment(Path(f"results/emoji/priors/{config['mace']['prior']}.safetensors")).matrix
    templates = read_templates(config["templates"]["object"])[: config["mace"]["templates_used"]]
    lora = config["mace"]["lora"]
    original = {n: m.weight.data.clone() for n, m in cross_attention_projections(pipeline.unet).items()}
    alphas, text = pipeline.scheduler.alphas_cumprod, text_encoders(pipeline)
    inputs = [
        (
            encode_images(pipeline.vae, to_pixels(read_images(folder / "images.zip")), seed=config["seed"]),
            torch.stack([torch.from_numpy(mask > 127) for mask in read_images(folder / "masks.zip")]),
            torch.cat(list(encode_prompts(text, [fill(t, concept.name) for t in templates]))),
            attended_tokens(text.tokenizer, templates, concept.name, use_pooler=lora["use_pooler"]),
        )
        for concept, folder in zip(concepts, folders, strict=True)
    ]
    use_scheduler(pipeline, config["sampling"]["scheduler"])
    erased = {concept.name for concept in concepts}
    classes = [name for _, name in phrases("resources/emoji/objects.tsv", "object")]
    prompt = config["evaluations"]["objects"]["class_prompt"]
    rows = [("kept" if name not in erased else "erased", name, name) for name in classes]
    rows += [("generality", concept.name, word) for concept in concepts for word in concept.synonyms]
    seeds = range(args.seeds[0], args.seeds[1] + 1)
    table = pd.DataFrame(
        [(role, kind, fill(prompt, word), seed) for role, kind, word in rows for seed in seeds],
        columns=["role", "type", "prompt", "evaluation_seed"],
    )
    class_texts = text_embeddings(judge, [fill(prompt, name) for name in classes])
    sampling = {key: config["sampling"][key] for key in ("steps", "guidance", "batch")}

    def scores() -> dict[str, float]:
        images = embed(judge, np.stack(sample_rows(pipeline, table, **sampling)))
        expected = np.array([classes.index(kind) for kind in table["type"]])
        part = {
            role: accuracy(images[table["role"] == role], class_texts, expected[table["role"] == role])
            for role in ("erased", "generality", "kept")
        }
        found = {"acc_e": part["erased"], "acc_g": part["generality"], "acc_s": part["kept"]}
        found["h_o"] = h_o(part["erased"], part["kept"], part["generality"])
        return {name: round(100 * value, 1) for name, value in found.items()}

    results = [{"method": "original", **scores()}]
    print(results[0], flush=True)
    loras: dict[tuple, list[dict[str, LowRank]]] = {}
    grid = itertools.product(args.refine_scale, args.fuse_scale, args.ridge, args.steps, args.learning_rate)
    for refine_scale, fuse_scale, ridge, steps, learning_rate in grid:
        started, settings = time.monotonic(), MaceSettings(refine_scale, fuse_scale, ridge)
        key = (refine_scale, ridge, steps, learning_rate)
        if key not in loras:
            loras[key] = []
            for moment, (latents, masks, states, tokens) in zip(moments, inputs, strict=True):
                set_projections(pipeline.unet, transformed(original, refinement([moment], prior, settings)))
                chosen = LoraSettings(**lora | {"steps": steps, "learning_rate": learning_rate}, seed=config["seed"])
                state, _ = train_lora(pipeline.unet, alphas, latents, masks, states, tokens, chosen)
                names = sorted({name.split(".lora")[0] for name in state})
                loras[key].append({n: LowRank(state[f"{n}.lora_A.weight"], state[f"{n}.lora_B.weight"]) for n in names})
        set_projections(pipeline.unet, erase(original, moments, loras[key], prior, settings))
        results.append(
            dict(
                method="mace",
                refine_scale=refine_scale,
                fuse_scale=fuse_scale,
                ridge=ridge,
                steps=steps,
                learning_rate=learning_rate,
                **scores(),
                seconds=round(time.monotonic() - started, 1),
            )
        )
        print(results[-1], flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
