"""All tables and plots of docs/results.md: every model that ships, lossless and lossy, beside the ordinary codecs.

    python benchmarks/results.py KODAK GB82 --report report --page docs/results.md

Rows are kept in the folder of --report, and a run that was broken off goes on with them. --only makes one part anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lossless
import lossy
import pages

from gencodec import runtime
from gencodec.codec import codecs
from gencodec.evaluation import contenders, corpus, plots, report, run, tables
from gencodec.evaluation.protocol import Options
from gencodec.evaluation.store import Results

BASELINES = ("png", "webp", "jxl", "jxl-e9", "jpeg-ls", "jpeg2000")


def models() -> list[str]:
    """The lossless models that ship: the default by its short name, by which it looks for color codes too."""
    found = [card for card in runtime.list_models() if card.family not in (*codecs.LOSSY, codecs.SPRITES)]
    return ["photo", "photo@1", *(card.name for card in found if card.family != "photo")]


def measure(args: argparse.Namespace) -> Results:
    """The rows of all lossless codecs, and a report on them."""
    options = Options(args.threads, args.device)
    pictures = corpus.find(args.folders, every=args.every)
    entries = contenders.entries(models(), BASELINES, options)
    results = run.run(pictures, entries, options, args.report / "lossless", jobs=args.jobs, listen=pages.show)
    report.write(results, args.report / "lossless", pictures)
    return results


def markdown(results: Results, place: Path, page: Path | None) -> str:
    """Write plots, and the text that shows them: a table and two plots for every folder."""
    place.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, part in lossless.sets(results).items():
        parts.append(f"### {name}, {len(part.images)} images\n\n{tables.markdown(tables.lossless(part))}")
        drawn = {"rates": plots.rate_bars(part), "decoding": plots.speeds(part, "decode")}
        for kind, plot in drawn.items():
            path = place / f"{name}-{kind}.svg"
            path.write_text(plot)
            parts.append(f"![{name}: {kind}]({pages.link(path, page)})\n")
    machine = results.machine
    threads, jobs = (results.settings[name] for name in ("threads", "jobs"))
    parts.append(
        f"One run of gencodec {results.version} on {results.date}, {threads} thread{'s' * (threads > 1)} an image and"
        f" {jobs} image{'s' * (jobs > 1)} at a time, on {machine['processor']}, {machine['cores']} cores; images:"
        f" SHA-256 {results.corpus[:16]}.\n"
    )
    return "\n".join(parts)


def main() -> None:
    parser = pages.parser(__doc__)
    parser.add_argument("--plots", type=Path, default=Path("docs/results"), metavar="DIR", help="where plots go")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="lossless: so many images at a time")
    parser.add_argument("--only", choices=("lossless", "lossy"), help="one of the parts")
    parser.set_defaults(report=Path("report"), models=None)
    args = parser.parse_args()
    found = {"rules": "".join(f"- {rule}\n" for rule in tables.RULES)}
    if args.only != "lossy":
        found["lossless"] = markdown(measure(args), args.plots, args.page)
    if args.only != "lossless":
        args.report /= "lossy"
        results, pictures = lossy.measure(args)
        report.write(results, args.report, pictures)
        found["lossy"] = lossy.markdown(results, pictures, args.plots, args.page)
    for mark, text in found.items():
        if args.page:
            pages.insert(args.page, mark, text)
        else:
            print(text)


if __name__ == "__main__":
    main()
