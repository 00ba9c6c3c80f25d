"""Fetch COCO's annotations, check them, keep the captions."""

import json
import tempfile
from pathlib import Path

from lethe.files.downloads import download, extract
from lethe.files.whole import written_whole
from lethe.steps.job import step

if __name__ == "__main__":
    with step("coco_annotations", __doc__, outputs=["train", "val", "record"]) as args:
        source = vars(args.settings)
        args.out_train.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.out_train.parent) as scratch:
            archive = Path(scratch) / "annotations.zip"
            found = download(source["url"], archive, source["sha256"])
            extract(archive, {f"annotations/{path.name}": path for path in (args.out_train, args.out_val)})
        with written_whole(args.out_record) as part:
            part.write_text(json.dumps({"url": source["url"], "sha256": found}, indent=2) + "\n", encoding="utf-8")
