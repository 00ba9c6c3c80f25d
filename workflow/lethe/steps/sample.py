"""Sample one shard of a suite from a base, edited or as it is."""

from lethe.bases.pipeline import text_encoders
from lethe.bases.sampling import SAMPLING, sample_rows
from lethe.bases.text import count_cut
from lethe.edits.edit import Edit
from lethe.files.shards import write_shard
from lethe.inputs.suites import shard_digests, shard_rows, suite_file, suite_rows
from lethe.steps.job import Job
from lethe.steps.loading import offload_parts, pipeline_of

LESS_MEMORY = "sampling.batch"


def run(job: Job) -> None:
    settings, sampling = job.settings, job.settings.sampling
    rows = suite_rows(settings.rows)
    if settings.types is not None:
        rows = rows[rows["type"].isin(settings.types)]
    known = shard_digests(rows, sampling["shard_size"])[settings.shard : settings.shard + 1]
    if settings.digest is not None and settings.digest not in known:
        raise ValueError(f"the rows of {settings.rows} changed while the workflow ran; run it again")
    rows = shard_rows(rows, settings.shard, sampling["shard_size"])
    pipeline = pipeline_of(job, scheduler=sampling["scheduler"], draws=True)
    text = text_encoders(pipeline)
    windows = "/".join(str(tokenizer.model_max_length) for tokenizer in text.tokenizers)
    told = f"prompts of {suite_file(settings.rows)} are longer than the base's window of {windows} tokens"
    job.note(count_cut(text.tokenizers, list(rows["prompt"])), f"{{}} {told}: their ends were cut")
    for path in job.reads["edit"]:
        Edit.load(path).install(pipeline, base_fingerprint=settings.base["fingerprint"])
    offload_parts(pipeline, job)
    images = sample_rows(pipeline, rows, **{key: sampling[key] for key in SAMPLING})
    write_shard(job.out["shard"], rows, images, settings.about)
