"""Compute the second moment of the text that an edit should preserve."""

import shutil
from functools import partial

from lethe.bases.devices import pick_device
from lethe.bases.text import encode_prompts
from lethe.erasure.moments import moment_in_parts, save_moment
from lethe.inputs.priors import prior_texts
from lethe.records.code import code_hash, environment
from lethe.steps.job import record_of, step, use_threads
from lethe.steps.loading import text_of

if __name__ == "__main__":
    with step("prior", __doc__, lists=["sources"], outputs=["prior"]) as args:
        use_threads(args.threads)
        settings = args.settings
        texts = prior_texts(settings.prior)
        # What a part's bytes depend on besides its texts: parts of another text encoder, machine or code are not
        # taken up.
        made_by = {
            "text": settings.text["fingerprint"],
            "precision": settings.precision,
            "device": str(pick_device(settings.device)),
            "threads": args.threads,
            "code": code_hash("lethe.steps.prior"),
            "environment": environment(),
        }
        parts = args.out_prior.with_name(f"{args.out_prior.name}.parts")
        moment = moment_in_parts(partial(encode_prompts, text_of(settings)), texts, parts, made_by=made_by)
        record = record_of("prior", args, texts=len(texts), distinct_texts=len(set(texts)))
        save_moment(args.out_prior, moment, record)
        shutil.rmtree(parts)
