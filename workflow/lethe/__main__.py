"""The `lethe` command: use edits, measure images, and say what made the files of a run and what that cost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe import __version__
from lethe.edits.forms import FORMS
from lethe.messages import plain
from lethe.steps.failures import explained

if TYPE_CHECKING:
    from lethe.edits.edit import Edit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it did what was asked, 2 with one sentence on standard error when it could not.

    `verify` returns 1 when it found damage.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal in ASCII or Latin-1 shows escapes for what it has no sign for
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser_of(measures=words[:1] == ["measure"]).parse_args(words)
        return args.run(args) or 0
    except BrokenPipeError:  # who reads has enough, as in `lethe trace FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 0
    except Exception as error:
        print(f"lethe: {explained(error)}", file=sys.stderr)
        return 2


def parser_of(*, measures: bool) -> argparse.ArgumentParser:
    """The arguments of the command; with `measures` those of `lethe measure` too, whose plug-ins nothing else reads."""
    parser = argparse.ArgumentParser(
        prog="lethe",
        description="Use edits: files that erase concepts from a base. Measure images. Say what made the files of a "
        "run.",
    )
    parser.add_argument("--version", action="version", version=f"lethe {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("show", help="say what made an edit", description="Say what made an edit.")
    show.add_argument("edit", type=Path, metavar="EDIT")
    show.add_argument("--json", action="store_true", help="print the whole record as JSON")
    show.set_defaults(run=_show)

    export = commands.add_parser(
        "export",
        help="write an edit for other programs",
        description="Write an edit, for the base that it was made for, as a folder that needs nothing of Lethe, with a "
        "model card. Forms: " + "; ".join(f"{form}, {told}" for form, told in FORMS.items()) + ".",
    )
    export.add_argument("--as", dest="form", choices=tuple(FORMS), default="diffusers", help="diffusers by default")
    export.add_argument("--edit", type=Path, required=True, help="the edit")
    export.add_argument("--base", help="a diffusers folder or a hub id; by default the one that the edit was made for")
    export.add_argument("--revision", help="commit, tag or branch of a hub id")
    export.add_argument("--rank", type=int, help="for kohya and peft, the rank of the LoRA in every layer")
    export.add_argument("--checkpoint", type=Path, help="for checkpoint, the base as a single file, in safetensors")
    export.add_argument(
        "--gallery",
        type=Path,
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help="two folders of `lethe sample`, of the base and of the edit, to show in the card",
    )
    export.add_argument("--table", type=Path, help="a table of results/tables, for the card's numbers")
    export.add_argument("--row", help="the table's row that is this edit's; by default that of its method's name")
    export.add_argument("--out", type=Path, required=True, help="the folder to write; it must not hold anything yet")
    export.set_defaults(run=_export)

    publish = commands.add_parser(
        "publish",
        help="upload an exported edit to the Hugging Face hub",
        description="Upload a folder that `lethe export` wrote, as a model repository, which is made if there is none.",
    )
    publish.add_argument("folder", type=Path, metavar="FOLDER")
    publish.add_argument("repository", metavar="REPO_ID", help="owner/name")
    publish.add_argument("--private", action="store_true", help="let nobody else see it")
    publish.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    publish.set_defaults(run=_publish)

    sample = commands.add_parser(
        "sample",
        help="draw from an edit",
        description="Draw images of prompts from a base with an edit, or from the base alone, as PNG files. Seeds "
        "count up from the first; the same seeds give the same images.",
    )
    sample.add_argument("--edit", type=Path, help="the edit; leave it out for the base as it is")
    sample.add_argument("--base", help="a diffusers folder or a hub id; by default the one that the edit was made for")
    sample.add_argument("--revision", help="commit, tag or branch of a hub id")
    sample.add_argument("--prompt", action="append", required=True, help="a prompt; may be given several times")
    sample.add_argument("--num-images", type=int, default=1, help="images of each prompt")
    sample.add_argument("--seed", type=int, default=0, help="of the first image of each prompt")
    sample.add_argument("--scheduler", default="own", help="own (the base's), dpm-solver++ or ddim")
    sample.add_argument("--steps", type=int, default=50, help="denoising steps")
    sample.add_argument("--guidance", type=float, default=7.5, help="scale of classifier-free guidance")
    sample.add_argument("--batch", type=int, default=4, help="images drawn together")
    sample.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:1")
    sample.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    sample.add_argument("--out", type=Path, default=Path("samples"), help="the folder to write; it must not exist")
    sample.set_defaults(run=_sample)

    measure = commands.add_parser(
        "measure",
        help="measure any images",
        description="Measure a folder or zip of images, by Lethe or anybody, and print numbers with their n, interval "
        "and protocol.",
    )
    if measures:
        from lethe.measuring import add_commands

        add_commands(measure)

    trace = commands.add_parser(
        "trace",
        help="say what made a file or a number in a table",
        description="Print the chain of jobs behind a file of a run, or behind a table's cells, with their settings.",
    )
    trace.add_argument("file", type=Path, metavar="FILE", help="a file in results/")
    trace.add_argument("--row", help="only what the cells of this row come from")
    trace.add_argument("--column", help="only what the cells of this column come from")
    trace.add_argument("--json", action="store_true", help="print the whole records as JSON")
    trace.set_defaults(run=_trace)

    settings = commands.add_parser(
        "settings",
        help="print a configuration with all its defaults",
        description="Check a configuration and print every value that a run would use, with where it comes from.",
    )
    settings.add_argument("config", type=Path, nargs="?", default=Path("config/config.yaml"), metavar="FILE")
    settings.add_argument("--keys", action="store_true", help="print the table of all keys, in Markdown, instead")
    settings.set_defaults(run=_settings)

    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("results", type=Path, nargs="?", default=Path("results"), metavar="RESULTS")
    costs = commands.add_parser(
        "costs",
        parents=[folder],
        help="say what the jobs of a run cost",
        description="Sum time, memory and GPU-hours of the jobs behind a results folder, by step and per concept. With "
        "--plan, say what a run of a configuration would take: jobs, images, GPU-hours and disk.",
    )
    costs.add_argument("--plan", type=Path, metavar="FILE", help="a configuration, to say what a run of it would take")
    costs.add_argument(
        "--images-per-second", type=float, help="with --plan, what a GPU draws; by default as RESULTS has it"
    )
    costs.set_defaults(run=_costs)

    status = commands.add_parser(
        "status",
        help="say how far a run is",
        description="Say what of a run is done, what is running, how fast and how long still, and what failed and why.",
    )
    status.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="where snakemake runs")
    status.set_defaults(run=_status)

    verify = commands.add_parser(
        "verify",
        parents=[folder],
        help="find damaged files",
        description="Compare the files of a results folder with their records and name those that differ. Changes "
        "nothing; exit code 1 when a file is damaged.",
    )
    verify.set_defaults(run=_verify)
    return parser


def _show(args: argparse.Namespace) -> None:
    from lethe.edits.cards import method_of
    from lethe.edits.edit import Edit, ParameterEdit
    from lethe.edits.factors import FactoredEdit
    from lethe.edits.guidance import GuidanceEdit

    edit = Edit.load(args.edit)
    record = edit.record
    if args.json:
        print(json.dumps(record, indent=2, sort_keys=True))
        return
    base = record["base"]
    revision = f" at {base['revision']}" if base.get("revision") else ""
    ranks = {n: end - first for n, (first, end) in edit.rows.items()} if isinstance(edit, FactoredEdit) else {}
    of = f", {len(edit.shapes)} parameters" if isinstance(edit, ParameterEdit) else f" of kind {edit.kind}"
    concepts = [f"{name} (rank {ranks[name]})" if name in ranks else name for name in record["concepts"]]
    lines = {
        "method": method_of(record),
        "base": f"{base['name']}: {base['model']}{revision}, fingerprint {base['fingerprint'][:12]}",
        "task": record.get("task", ""),
        "concepts": ", ".join(concepts),
        "form": f"{edit.form}{of}, {args.edit.stat().st_size / 1e6:.1f} MB",
        **({"guidance": _flat(edit.settings)} if isinstance(edit, GuidanceEdit) else {}),
        "settings": _flat(record.get("settings", {})),
        "versions": _flat(record.get("environment", {})),
        "code": str(record.get("code", ""))[:12],
    }
    for name, text in lines.items():
        print(f"{name:9} {plain(text)}")


def _export(args: argparse.Namespace) -> None:
    from lethe.edits.edit import Edit
    from lethe.edits.export import export

    told = ("base", "revision", "rank", "checkpoint", "gallery", "table", "row")
    made = export(Edit.load(args.edit), args.out, args.form, **{name: getattr(args, name) for name in told})
    print(made.path)
    for sentence in made.about:
        print(plain(sentence))


def _publish(args: argparse.Namespace) -> None:
    from lethe.edits.publish import publish

    told = publish(args.folder, args.repository, private=args.private, dry_run=args.dry_run)
    for name, size in told.files.items():
        print(f"{size / 1e6:10.1f} MB  {plain(name)}")
    print(f"{'would go' if args.dry_run else 'uploaded'} to {told.url}")


def _sample(args: argparse.Namespace) -> None:
    from PIL import Image

    from lethe import api
    from lethe.bases.folder import base_folder
    from lethe.edits.edit import Edit
    from lethe.files.shards import SAMPLES_NAME
    from lethe.files.whole import folder_written_whole
    from lethe.records.fingerprints import fingerprint

    edit = Edit.load(args.edit) if args.edit else None
    about = edit.record["base"] if edit else {}
    if edit is None and args.base is None:
        raise ValueError("there is nothing to draw from; name an --edit, a --base, or both")
    if args.num_images < 1:
        raise ValueError(f"--num-images must be 1 or more; got {args.num_images}")
    model, variant = args.base or about["model"], about.get("variant")
    folder = base_folder(model, args.revision or (None if args.base else about.get("revision")), variant=variant)
    if args.out.exists():
        raise ValueError(f"{args.out} is there already; name another folder")
    pipeline = api.load(folder, variant=variant, device=args.device, precision=args.precision)
    if edit:
        found = fingerprint(folder, variant=variant)
        edit.install(pipeline, base_fingerprint=None if _same_weights(edit, folder) else found)
    prompts = [prompt for prompt in args.prompt for _ in range(args.num_images)]
    seeds = [args.seed + k for _ in args.prompt for k in range(args.num_images)]
    chosen = dict(scheduler=args.scheduler, steps=args.steps, guidance=args.guidance, batch=args.batch)
    drawn = api.sample(pipeline, prompts, seeds, **chosen)
    with folder_written_whole(args.out) as part:
        for number, image in enumerate(drawn):
            Image.fromarray(image).save(part / f"{number:03d}.png", "PNG")
        rows = [
            {"image": f"{k:03d}.png", "prompt": p, "seed": s}
            for k, (p, s) in enumerate(zip(prompts, seeds, strict=True))
        ]
        about = {"edit": str(args.edit or ""), "base": model, **chosen, "images": rows}
        (part / SAMPLES_NAME).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(args.out)


def _same_weights(edit: Edit, folder: Path) -> bool:
    """Whether a base holds the weights that an edit was made from, whatever else differs, such as its scheduler."""
    from lethe.bases.weights import weights_hash

    return edit.record["base"].get("weights_sha256") == weights_hash(folder, variant=edit.record["base"].get("variant"))


def _trace(args: argparse.Namespace) -> None:
    from lethe.records.traces import lines, trace

    told = trace(args.file, args.row, args.column)
    if args.json:
        print(json.dumps(told.as_json(), indent=1))
        return
    for line in lines(told):
        print(plain(line))


def _settings(args: argparse.Namespace) -> None:
    from lethe.config.checks import check_config
    from lethe.config.keys import resolved, tables_of_keys

    if args.keys:
        print(tables_of_keys(), end="")
        return
    config = _yaml(args.config)
    check_config(config, source=str(args.config), files=[args.config], made=("results/",))
    for key, value, origin in resolved(config, str(args.config)):
        print(plain(f"{key}: {value}  # {origin}"))


def _yaml(path: Path) -> object:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: this is no YAML ({' '.join(str(error).split())})") from None


def _costs(args: argparse.Namespace) -> None:
    from lethe.records.costs import costs, lines

    if args.plan is not None:
        _expected_costs(args)
        return
    if args.images_per_second is not None:
        raise ValueError("--images-per-second is for a plan; name a configuration with --plan")
    for line in lines(costs(args.results)):
        print(plain(line))


def _expected_costs(args: argparse.Namespace) -> None:
    from lethe.config.checks import check_config
    from lethe.config.planning import check_plan, read_inputs
    from lethe.plan import Plan
    from lethe.records.estimates import lines, planned_steps, seen

    rate, source = args.images_per_second, str(args.plan)
    if rate is not None and not 0 < rate < float("inf"):
        raise ValueError(f"--images-per-second must be a number above 0; got {rate}")
    config = check_config(_yaml(args.plan), source=source, files=[args.plan], made=("results/",))
    inputs = read_inputs(config, source)
    check_plan(config, inputs, source)
    plan = Plan(config, inputs, locate=lambda *_: None)  # what models hold changes no number here
    for line in lines(
        planned_steps(plan.jobs, plan.images_of), seen(args.results), args.results, images_per_second=rate
    ):
        print(plain(line))


def _status(args: argparse.Namespace) -> None:
    from lethe.frame.status import status

    for line in status(args.folder):
        print(plain(line))


def _verify(args: argparse.Namespace) -> int:
    from lethe.records.records import verify

    good, damaged, missing = verify(args.results)
    for told in damaged:
        print(plain(told))
    print(f"{good} files as recorded, {len(damaged)} damaged, {len(missing)} missing")
    return 1 if damaged else 0


def _flat(settings: dict, prefix: str = "") -> str:
    """Nested settings as `a.b 1, a.c 2`."""
    parts = []
    for key, value in settings.items():
        parts.append(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} {value}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
