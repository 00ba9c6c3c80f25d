"""Compute the second moment of the text that an edit should preserve."""

import shutil
from functools import partial

from lethe.bases.text import encode_prompts
from lethe.erasure.moments import moment_in_parts, save_moment
from lethe.inputs.priors import prior_texts
from lethe.records.code import environment
from lethe.steps.job import Job
from lethe.steps.loading import text_of


def run(job: Job) -> None:
    settings = job.settings
    texts = prior_texts(settings.prior)
    # What a part's bytes depend on besides its texts: parts of another text encoder, machine or code are not taken up.
    made_by = {
        "text": settings.text["fingerprint"],
        "precision": settings.precision,
        "device": str(job.device),
        "threads": job.threads,
        "code": job.code,
        "environment": environment(),
    }
    prior = job.out["prior"]
    parts = prior.with_name(f"{prior.name}.parts")
    moment = moment_in_parts(partial(encode_prompts, text_of(job)), texts, parts, made_by=made_by)
    save_moment(prior, moment, job.record(texts=len(texts), distinct_texts=len(set(texts))))
    shutil.rmtree(parts)
