"""Cache the second moment of the text that an edit should preserve."""

from lethe.files import read_texts
from lethe.moments import save_moment, second_moment
from lethe.steps.arguments import read_arguments, record_of, use_threads
from lethe.steps.loading import text_of
from lethe.text import encode_prompts

if __name__ == "__main__":
    args = read_arguments(__doc__, inputs=["captions"], outputs=["prior"])
    use_threads(args.threads)
    settings = args.settings
    captions = read_texts(args.captions, settings.column)
    moment = second_moment(encode_prompts(text_of(settings), captions))
    save_moment(args.out_prior, moment, record_of("prior", args, captions=len(captions)))
