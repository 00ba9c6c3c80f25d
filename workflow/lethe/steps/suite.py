"""Write a suite's rows."""

from lethe.files import written_whole
from lethe.steps.arguments import read_arguments
from lethe.suites import suite_rows

if __name__ == "__main__":
    args = read_arguments(__doc__, lists=["sources"], outputs=["rows"])
    with written_whole(args.out_rows) as part:
        suite_rows(args.settings.suite).to_csv(part, lineterminator="\n")
