"""Sweep the settings of a method on the emoji world: Acc_e, Acc_g, Acc_s, H_o (H_c of people) and CLIP score of each.

    python benchmarks/method_settings.py speed --vary tau=0.01,0.1 --vary ridge=0.1,1

Run it from the repository root. The method is an entry of a configuration, whose task says what is erased. Settings
that are not varied stay as there, and values are written as YAML. Samples use seeds outside the suites of the shipped
configurations, so that settings are not chosen on the images that tables report. The last line is a JSON list with
one object per combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import torch
import yaml

from emoji import Emoji
from lethe import api
from lethe.config.schema import method_of, over
from lethe.inputs.priors import prior_texts
from lethe.inputs.texts import unnamed
from lethe.plugins import manifest


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="an entry of the configuration's methods")
    parser.add_argument("--configfile", default="config/comparison.yaml")
    parser.add_argument("--task", default="objects_3")
    parser.add_argument("--vary", action="append", default=[], metavar="SETTING=VALUE,VALUE", help="lora.steps=50,100")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs=2, default=[101, 104], help="first and last seed")
    parser.add_argument("--kept-seeds", type=int, nargs=2, default=[101, 101], help="those of what stays")
    parser.add_argument(
        "--captions", type=int, default=60, help="how many to tell the CLIP score of, since H does not see it"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    emoji = Emoji(args.configfile, args.task)
    seeds, kept_seeds = (range(first, last + 1) for first, last in (args.seeds, args.kept_seeds))

    def scores(edit: Any) -> dict[str, float]:
        told = emoji.scores(edit, emoji.concepts, seeds=seeds, kept_seeds=kept_seeds)
        return told | (emoji.clip_score(edit, args.captions) if args.captions else {})

    results = [{"method": "original", **scores(None)}]
    print(results[0], flush=True)
    varied = {name: yaml.safe_load(f"[{values}]") for name, _, values in (one.partition("=") for one in args.vary)}
    for values in itertools.product(*varied.values()):
        changes = dict(zip(varied, values, strict=True))
        started = time.monotonic()
        edit = made(emoji, args.method, changes)
        seconds = round(time.monotonic() - started, 1)
        results.append({"method": args.method, **changes, **scores(edit), "seconds": seconds})
        print(results[-1], flush=True)
    print(json.dumps(results))


def made(emoji: Emoji, name: str, changes: dict[str, Any]) -> Any:
    """The edit of a method with some of its settings changed; a dot stands between a group and its setting."""
    settings = method_of(emoji.config, emoji.task, name)
    for place, value in changes.items():
        for part in reversed(place.split(".")):
            value = {part: value}
        settings = over(settings, value)
    said, priors = manifest("methods", settings.pop("kind")), emoji.config["priors"]
    for key in said.entries_of("priors"):
        settings[key] = settings[key] and prior_texts(priors[settings[key]])
    for key in said.of_type("texts_or_prior"):
        if isinstance(settings[key], dict):
            settings[key] = unnamed(prior_texts(priors[settings[key]["prior"]]), emoji.concepts)
    sections = {name: emoji.config[name] for name in ("images", "masks", "templates")}
    return api.erase(emoji.pipeline, emoji.concepts, said.name, seed=emoji.config["seed"], **sections, **settings)


if __name__ == "__main__":
    main()
