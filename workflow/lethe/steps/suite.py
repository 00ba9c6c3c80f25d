"""Write a suite's rows."""

from lethe.files import rows_as_csv, written_whole
from lethe.steps.arguments import read_arguments
from lethe.suites import suite_rows

if __name__ == "__main__":
    args = read_arguments(__doc__, lists=["sources"], outputs=["rows"])
    with written_whole(args.out_rows) as part:
        part.write_text(rows_as_csv(suite_rows(args.settings.suite)), encoding="utf-8", newline="")
