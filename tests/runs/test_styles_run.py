"""The shipped configuration for a style, config/styles.yaml: its methods erase the style, and keep the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import lethe
from lethe.config.checks import check_config
from lethe.config.planning import check_plan, read_inputs
from lethe.config.schema import method_of
from lethe.inputs.priors import prior_texts
from running import ROOT

GIVEN = ("kind", "prior", "domain_prior")


@pytest.fixture(scope="module")
def config() -> dict:
    """The configuration, checked as a run checks it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = Path("config/styles.yaml")
        config = check_config(yaml.safe_load(path.read_text()), files=[path])
        check_plan(config, read_inputs(config))
        yield config


def test_twemoji_is_drawn_no_more_and_the_other_styles_are(config: dict) -> None:
    inputs = read_inputs(config)
    (concept,) = [concept for concept in inputs.concepts if concept.name == "Twemoji"]
    evaluation, rows = config["evaluations"]["styles"], inputs.suites["styles"]
    rows = rows[(rows["type"] == concept.name) | (rows["evaluation_seed"] == 1)]
    classes = inputs.classes["styles"]
    judge = {"model": config["measures"]["judge"]["model"], "prompt": evaluation["class_prompt"]}
    pipeline = lethe.load(config["bases"]["emoji"]["model"])

    def right() -> tuple[float, float]:
        """Percent of images in the named style: Twemoji, the others."""
        drawing = {key: config["sampling"][key] for key in ("scheduler", "steps", "guidance", "batch")}
        images = lethe.sample(pipeline, list(rows["prompt"]), list(rows["evaluation_seed"]), **drawing)
        found = np.array(lethe.recognised(images, classes, **judge)) == rows["type"].to_numpy()
        erased = (rows["type"] == concept.name).to_numpy()
        return 100 * found[erased].mean(), 100 * found[~erased].mean()

    before = right()
    assert before[0] >= 60  # the judge takes a third of them for another style
    for name in config["tasks"]["styles"]["methods"]:
        settings = method_of(config, "styles", name)
        texts = {key: prior_texts(config["priors"][settings[key]]) for key in GIVEN[1:] if settings.get(key)}
        chosen = {key: value for key, value in settings.items() if key not in GIVEN}
        edit = lethe.erase(pipeline, [concept], settings["kind"], images=config["images"], **chosen, **texts)
        edit.install(pipeline)
        after = right()
        edit.remove(pipeline)
        assert after[0] <= 40, name  # one of seven is right by chance
        assert after[1] >= 0.9 * before[1], name
