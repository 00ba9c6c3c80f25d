"""Cache the second moment of the text that an edit should preserve."""

from lethe.bases import load_text, pick_device
from lethe.files import read_texts
from lethe.moments import save_moment, second_moment
from lethe.steps.arguments import read_arguments, record_of, use_threads
from lethe.text import encode_prompts

if __name__ == "__main__":
    args = read_arguments(__doc__, inputs=["captions"], outputs=["prior"])
    use_threads(args.threads)
    settings = args.settings
    captions = read_texts(args.captions, settings.column)
    tokenizer, encoder = load_text(
        settings.base["model"],
        settings.base["revision"],
        device=pick_device(settings.device),
        precision=settings.precision,
    )
    moment = second_moment(encode_prompts(tokenizer, encoder, captions))
    save_moment(args.out_prior, moment, record_of("prior", args, captions=len(captions)))
