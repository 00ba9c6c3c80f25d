"""Sample one shard of a suite from a base, edited or as it is."""

from lethe.bases.pipeline import text_encoders
from lethe.bases.sampling import sample_rows
from lethe.bases.text import count_cut
from lethe.edits.edit import apply_edit, load_edit
from lethe.files.shards import write_shard
from lethe.inputs.suites import shard_digests, shard_rows, suite_file, suite_rows
from lethe.steps.job import step, use_threads
from lethe.steps.loading import pipeline_of

if __name__ == "__main__":
    with step(
        "sample",
        __doc__,
        lists=["edit"],
        outputs=["shard"],
        reads=lambda s: [suite_file(s.suite)],
        less="sampling.batch",
    ) as args:
        use_threads(args.threads)
        settings, sampling = args.settings, args.settings.sampling
        rows = shard_rows(suite_rows(settings.suite), settings.shard, sampling["shard_size"])
        if shard_digests(rows, sampling["shard_size"]) != [settings.digest]:
            raise ValueError(f"the rows of {settings.suite} changed while the workflow ran; run it again")
        pipeline = pipeline_of(settings, scheduler=sampling["scheduler"])
        text = text_encoders(pipeline)
        if cut := count_cut(text.tokenizers, list(rows["prompt"])):
            windows = "/".join(str(tokenizer.model_max_length) for tokenizer in text.tokenizers)
            told = f"prompts of {suite_file(settings.suite)} are longer than the base's window of {windows} tokens"
            args.also_recorded["notes"] = [(cut, f"{{}} {told}: their ends were cut")]
        for path in args.edit:
            apply_edit(pipeline.unet, load_edit(path), base_fingerprint=settings.base["fingerprint"])
        images = sample_rows(
            pipeline, rows, steps=sampling["steps"], guidance=sampling["guidance"], batch=sampling["batch"]
        )
        write_shard(args.out_shard, rows, images)
