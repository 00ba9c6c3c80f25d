"""Record what a base is: its kind, its size and its content's fingerprint."""

import json

from lethe.bases.pipeline import describe
from lethe.files.whole import written_whole
from lethe.steps.job import step
from lethe.steps.loading import folder_of

if __name__ == "__main__":
    with step("base", __doc__, outputs=["record"]) as args:
        base = args.settings.base
        folder_of(base)
        record = base | describe(
            base["model"], base["revision"], variant=base["variant"], key=f"bases.{base['name']}.model"
        )
        with written_whole(args.out_record) as part:
            part.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
