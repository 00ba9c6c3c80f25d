"""Record what a base is: its kind, its size and its content's fingerprint."""

import json

from lethe.bases import describe
from lethe.files import written_whole
from lethe.steps.arguments import step
from lethe.steps.loading import check_unchanged

if __name__ == "__main__":
    with step("base", __doc__, outputs=["record"]) as args:
        base = args.settings.base
        check_unchanged(base)
        record = base | describe(base["model"], base["revision"])
        with written_whole(args.out_record) as part:
            part.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
