"""Record what a base is: its kind, its size and the hash of its content."""

import json
from pathlib import Path

from lethe.bases import describe
from lethe.files import written_whole
from lethe.provenance import content_hash
from lethe.steps.arguments import step

if __name__ == "__main__":
    with step("base", __doc__, outputs=["record"]) as args:
        base = args.settings.base
        record = base | describe(
            base["model"], base["revision"], variant=base["variant"], key=f"bases.{base['name']}.model"
        )
        if Path(base["model"]).is_dir():
            record |= {"content_sha256": content_hash(Path(base["model"]))}
        with written_whole(args.out_record) as part:
            part.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
